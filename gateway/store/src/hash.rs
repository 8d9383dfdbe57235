//! Rows out of Feast's hashes: which commands read them, and what is kept of the replies. Promises: each hash is
//! asked once a batch whoever wants a part of it, by the command that costs the server less, and no value is looked
//! into before somebody asks for it.

use std::collections::HashMap;

use ::redis::{Cmd, Value};
use bytes::Bytes;
use weir_domain::feast::{HashRead, HashRow};

use crate::Redis;
use crate::flight::Answer;
use crate::redis::Command;
use crate::shape::Shape;

/// Bytes of a cached row's key before the name of the hash: the digest of the read.
pub(crate) const ID_BYTES: usize = 16;
/// HMGET walks a small hash from its start for every field; HGETALL walks it once, but sends all of it. From this
/// share of the fields on HGETALL is the cheaper for the server and for both ends together (measured: see
/// `loadtest/README.md`).
const WHOLE_FROM: f64 = 0.34;
/// Redis keeps hashes of more fields as hash tables, in which a field is found at once
/// (`hash-max-listpack-entries`): there the whole is only worth it when nearly all of it is wanted.
const LISTPACK_FIELDS_MAX: usize = 512;
const WHOLE_OF_TABLE_FROM: f64 = 0.8;

/// Reads the rows of these keys, all of the shape [`Shape::Hash`]; one answer for each, in order.
pub(crate) async fn read(redis: &Redis, keys: &[Bytes], shapes: &[Shape]) -> Vec<Answer> {
    let parts: Vec<Part<'_>> = keys.iter().zip(shapes).map(|(key, shape)| Part::of(key, shape)).collect();
    let questions = questions(&parts);
    let replies = redis.run(questions.iter().map(|q| q.command(&parts)).collect()).await;
    let mut answers = vec![Answer::Nothing; keys.len()];
    let mut order = Vec::new();
    for (question, reply) in questions.iter().zip(replies) {
        match reply {
            Ok(reply) => question.take(&parts, &reply, &mut order, &mut answers),
            Err(trouble) => question.parts.iter().for_each(|&part| answers[part] = Answer::Failed(trouble)),
        }
    }
    answers
}

/// What one row needs of a hash.
struct Part<'a> {
    hash: Bytes,
    read: Option<&'a HashRead>,
}

impl<'a> Part<'a> {
    fn of(key: &Bytes, shape: &'a Shape) -> Self {
        let read = if let Shape::Hash(read) = shape { Some(read.as_ref()) } else { None };
        Self { hash: key.slice(ID_BYTES.min(key.len())..), read }
    }

    /// The fields in the order in which they are asked for: values first, then the time.
    fn fields(&self) -> impl Iterator<Item = &'a [u8]> {
        let read = self.read;
        read.into_iter().flat_map(|r| r.fields.iter().map(|f| &f[..]).chain([&r.time_field[..]]))
    }

    fn len(&self) -> usize {
        self.read.map_or(0, |r| r.fields.len() + 1)
    }
}

/// One command: a hash, and the parts that want something of it.
struct Question {
    parts: Vec<usize>,
    whole: bool,
}

/// One question a hash. Parts of one read never share a hash, so only several reads have to be brought together.
fn questions(parts: &[Part<'_>]) -> Vec<Question> {
    let first = parts.first().and_then(|p| p.read);
    let one_read = parts.iter().all(|p| p.read.zip(first).is_some_and(|(a, b)| std::ptr::eq(a, b)));
    let mut groups: Vec<Vec<usize>> = Vec::with_capacity(parts.len());
    if one_read {
        groups.extend((0..parts.len()).map(|part| vec![part]));
    } else {
        let mut by_hash: HashMap<&[u8], usize> = HashMap::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            let group = *by_hash.entry(&part.hash[..]).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            groups[group].push(index);
        }
    }
    let question = |group: Vec<usize>| {
        let wanted: usize = group.iter().map(|&p| parts[p].len()).sum();
        let there = group.iter().filter_map(|&p| parts[p].read).map(|r| r.hash_fields).max().unwrap_or(0);
        let from = if there > LISTPACK_FIELDS_MAX { WHOLE_OF_TABLE_FROM } else { WHOLE_FROM };
        Question { whole: wanted as f64 >= there as f64 * from, parts: group }
    };
    groups.into_iter().map(question).collect()
}

impl Question {
    fn command(&self, parts: &[Part<'_>]) -> Command {
        let hash = self.parts.first().map(|&p| parts[p].hash.clone()).unwrap_or_default();
        let fields: usize = if self.whole { 0 } else { self.parts.iter().map(|&p| parts[p].len()).sum() };
        let mut cmd = Cmd::with_capacity(fields + 2, 8 + hash.len() + fields * 8);
        cmd.arg(if self.whole { "HGETALL" } else { "HMGET" }).arg(&hash[..]);
        if !self.whole {
            self.parts.iter().flat_map(|&p| parts[p].fields()).for_each(|field| {
                cmd.arg(field);
            });
        }
        Command { key: hash, cmd }
    }

    /// Takes the reply apart. `order` remembers where the last whole hash had its fields: the next one nearly always
    /// has them at the same places.
    fn take(&self, parts: &[Part<'_>], reply: &Value, order: &mut Vec<usize>, answers: &mut [Answer]) {
        let Some(values) = self.values(parts, reply, order) else {
            let failed = || Answer::Failed(crate::Trouble::Protocol);
            self.parts.iter().for_each(|&part| answers[part] = failed());
            return;
        };
        let mut rest = &values[..];
        for &part in &self.parts {
            let Some((own, after)) = rest.split_at_checked(parts[part].len()) else { continue };
            rest = after;
            let Some((time, fields)) = own.split_last() else { continue };
            let row = HashRow::pack(*time, fields);
            answers[part] = row.map_or(Answer::Nothing, |row| Answer::Row(row.into()));
        }
    }

    /// The value of each wanted field, or `None` when this is no reply to the question.
    fn values<'r>(
        &self,
        parts: &[Part<'_>],
        reply: &'r Value,
        order: &mut Vec<usize>,
    ) -> Option<Vec<Option<&'r [u8]>>> {
        let wanted = || self.parts.iter().flat_map(|&p| parts[p].fields());
        match reply {
            Value::Array(items) if !self.whole => {
                (items.len() == wanted().count()).then_some(())?;
                items.iter().map(bulk).collect()
            }
            Value::Array(items) if items.len() % 2 == 0 => {
                let pairs: Option<Vec<_>> =
                    items.chunks_exact(2).map(|pair| Some((bulk(&pair[0])??, &pair[1]))).collect();
                find(&pairs?, wanted(), order)
            }
            Value::Map(items) => {
                let pairs: Option<Vec<_>> = items.iter().map(|(field, value)| Some((bulk(field)??, value))).collect();
                find(&pairs?, wanted(), order)
            }
            _ => None,
        }
    }
}

/// Each wanted field among the pairs of a hash.
fn find<'r, 'w>(
    pairs: &[(&'r [u8], &'r Value)],
    wanted: impl Iterator<Item = &'w [u8]>,
    order: &mut Vec<usize>,
) -> Option<Vec<Option<&'r [u8]>>> {
    let mut found = Vec::with_capacity(order.len());
    for (place, field) in wanted.enumerate() {
        let guess = order.get(place).copied().unwrap_or(place);
        let at = match pairs.get(guess) {
            Some((name, _)) if *name == field => Some(guess),
            _ => pairs.iter().position(|(name, _)| *name == field),
        };
        if let Some(at) = at {
            if order.len() <= place {
                order.resize(place + 1, usize::MAX);
            }
            order[place] = at;
        }
        found.push(match at {
            Some(at) => bulk(pairs[at].1)?,
            None => None,
        });
    }
    Some(found)
}

/// The bytes of a bulk string, `Some(None)` for nil, `None` for anything else.
#[expect(clippy::option_option, reason = "a nil is an answer, and what is no bulk string is none")]
fn bulk(value: &Value) -> Option<Option<&[u8]>> {
    match value {
        Value::BulkString(bytes) => Some(Some(bytes)),
        Value::Nil => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use weir_domain::catalog::Freshness;

    fn shape(view: &str, features: &[&str], hash_fields: usize) -> Shape {
        let cache = Freshness { fresh_for: Duration::ZERO, stale_for: Duration::ZERO, negative_for: Duration::ZERO };
        Shape::Hash(Arc::new(HashRead::new(view, features.iter().copied(), hash_fields, cache)))
    }

    fn key(shape: &Shape, hash: &str) -> Bytes {
        let Shape::Hash(read) = shape else { unreachable!("a hash") };
        [&read.id[..], hash.as_bytes()].concat().into()
    }

    #[test]
    fn reads_of_one_hash_share_a_command_and_wide_reads_take_the_whole() {
        let (a, b) = (shape("a", &["x"], 10), shape("b", &["y", "z"], 10));
        let keys = [key(&a, "1"), key(&b, "1"), key(&b, "2")];
        let shapes = [a, b.clone(), b];
        let parts: Vec<Part<'_>> = keys.iter().zip(&shapes).map(|(k, s)| Part::of(k, s)).collect();
        let questions = questions(&parts);
        let seen: Vec<_> = questions.iter().map(|q| (q.parts.clone(), q.whole)).collect();
        assert_eq!(seen, [(vec![0, 1], true), (vec![2], false)]);
        let command = questions[1].command(&parts).cmd.get_packed_command();
        assert!(command.starts_with(b"*5\r\n$5\r\nHMGET\r\n$1\r\n2\r\n"));
    }

    #[test]
    fn fields_of_a_whole_hash_are_found_wherever_they_stand() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let values = [bulk("1"), bulk("2"), bulk("3")];
        let pairs = [(&b"a"[..], &values[0]), (b"b", &values[1]), (b"c", &values[2])];
        let mut order = Vec::new();
        let wanted = || [&b"c"[..], b"x", b"a"].into_iter();
        let found = || vec![Some(&b"3"[..]), None, Some(&b"1"[..])];
        assert_eq!(find(&pairs, wanted(), &mut order), Some(found()));
        assert_eq!(order, [2, usize::MAX, 0], "remembered for the next hash");
        assert_eq!(find(&pairs, wanted(), &mut order), Some(found()));
    }
}
