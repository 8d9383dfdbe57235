//! Rows out of Feast's hashes: which commands read them, and what is kept of the replies. Promises: each hash is
//! asked once a batch whoever wants a part of it, by the command that costs the server less, and no value is looked
//! into before somebody asks for it.

use std::collections::HashMap;

use bytes::Bytes;
use weir_domain::feast::{HashRead, HashRow};

use crate::flight::Answer;
use crate::redis::Waits;
use crate::redis::commands::Commands;
use crate::redis::resp::{Element, Elements, Garbage};
use crate::shape::Shape;
use crate::{Redis, Trouble};

/// About what a command with its key takes: a guess that spares growing.
const COMMAND_BYTES: usize = 128;
/// Bytes of a cached row's key before the name of the hash: the digest of the read.
pub(crate) const ID_BYTES: usize = 16;
/// HMGET walks a small hash from its start for every field; HGETALL walks it once, but sends all of it. Measured on 51
/// fields (`loadtest/feast/hash_cost.py`): HGETALL costs the server 3.8 µs, HMGET as much for 14 of them and three times
/// that for all. Passing over the fields that nobody wants costs us another microsecond.
const WHOLE_FROM: f64 = 0.3;
/// Redis keeps hashes of more fields as hash tables, in which a field is found at once
/// (`hash-max-listpack-entries`): there the whole is only worth it when nearly all of it is wanted.
const LISTPACK_FIELDS_MAX: usize = 512;
const WHOLE_OF_TABLE_FROM: f64 = 0.8;

/// Reads the rows of these keys, all of the shape [`Shape::Hash`]; one answer for each, in order.
pub(crate) async fn read(redis: &Redis, keys: &[Bytes], shapes: &[Shape], waits: &Waits) -> Vec<Answer> {
    let parts: Vec<Part<'_>> = keys.iter().zip(shapes).map(|(key, shape)| Part::of(key, shape)).collect();
    let questions = questions(&parts);
    let mut commands = Commands::with_capacity(questions.len(), questions.len() * COMMAND_BYTES);
    questions.iter().for_each(|question| question.push(&parts, &mut commands));
    let replies = redis.run(commands, waits).await;
    let mut answers = vec![Answer::Nothing; keys.len()];
    let mut reader = Reader::of(&parts);
    for (question, reply) in questions.iter().zip(&replies) {
        let taken = match reply {
            Ok(reply) => reader.take(question, reply, &mut answers).map_err(|Garbage| Trouble::Protocol),
            Err(trouble) => Err(*trouble),
        };
        if let Err(trouble) = taken {
            question.parts.iter().for_each(|&part| answers[part] = Answer::Failed(trouble));
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
    fn fields(&self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let read = self.read;
        // Without a read there is nothing to ask for.
        let field = move |index| match read {
            Some(read) => read.fields.get(index).map_or(&read.time_field[..], <[u8; 4]>::as_slice),
            None => &[],
        };
        (0..self.len()).map(field)
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
    fn push(&self, parts: &[Part<'_>], commands: &mut Commands) {
        let hash = self.parts.first().map(|&p| parts[p].hash.clone()).unwrap_or_default();
        if self.whole {
            commands.push("HGETALL", &hash, std::iter::empty());
        } else if let [part] = self.parts[..] {
            commands.push("HMGET", &hash, parts[part].fields());
        } else {
            let fields: Vec<&[u8]> = self.parts.iter().flat_map(|&p| parts[p].fields()).collect();
            commands.push("HMGET", &hash, fields.into_iter());
        }
    }
}

/// Takes replies apart, one after another. What the last whole hash was like, the next one nearly always is.
struct Reader<'r> {
    parts: &'r [Part<'r>],
    /// What was wanted of the last whole hash.
    wanted: Fields<'r>,
    /// The fields of the last whole hash, and the place of each among the wanted.
    seen: Vec<(&'r [u8], Option<usize>)>,
    /// Of the last hash, what was wanted.
    values: Vec<Option<&'r [u8]>>,
}

/// The fields that the parts of a question want.
#[derive(Default)]
struct Fields<'r> {
    reads: Vec<Option<&'r HashRead>>,
    /// By field: its first place.
    places: HashMap<&'r [u8], usize>,
    /// Places of fields that have an earlier one, and that one.
    again: Vec<(usize, usize)>,
    count: usize,
}

impl<'r> Reader<'r> {
    fn of(parts: &'r [Part<'r>]) -> Self {
        Self { parts, wanted: Fields::default(), seen: Vec::new(), values: Vec::new() }
    }

    fn take(&mut self, question: &Question, reply: &'r [u8], answers: &mut [Answer]) -> Result<(), Garbage> {
        let parts = self.parts;
        let mut elements = Elements::of(reply);
        let Some(Element::Array(items)) = elements.next()? else { return Err(Garbage) };
        self.values.clear();
        if question.whole {
            self.find(question, items / 2, &mut elements)?;
        } else {
            if items != question.parts.iter().map(|&p| parts[p].len()).sum::<usize>() {
                return Err(Garbage);
            }
            for _ in 0..items {
                self.values.push(elements.bulk()?);
            }
        }
        let mut rest = &self.values[..];
        for &part in &question.parts {
            let Some((own, after)) = rest.split_at_checked(parts[part].len()) else { return Err(Garbage) };
            rest = after;
            let Some((time, fields)) = own.split_last() else { continue };
            answers[part] = HashRow::pack(*time, fields).map_or(Answer::Nothing, |row| Answer::Row(row.into()));
        }
        Ok(())
    }

    /// Each wanted field among the pairs of a hash.
    fn find(&mut self, question: &Question, pairs: usize, elements: &mut Elements<'r>) -> Result<(), Garbage> {
        if !self.wanted.is_of(question, self.parts) {
            self.wanted = Fields::of(question, self.parts);
            self.seen.clear();
        }
        self.values.resize(self.wanted.count, None);
        for pair in 0..pairs {
            let name = elements.bulk()?.ok_or(Garbage)?;
            let value = elements.bulk()?.ok_or(Garbage)?;
            let place = match self.seen.get(pair) {
                Some((known, place)) if is_same(known, name) => *place,
                _ => self.look_up(pair, name),
            };
            if let Some(place) = place {
                self.values[place] = Some(value);
            }
        }
        for &(place, first) in &self.wanted.again {
            self.values[place] = self.values[first];
        }
        Ok(())
    }

    /// A field that the last hash did not have here.
    fn look_up(&mut self, pair: usize, name: &'r [u8]) -> Option<usize> {
        let place = self.wanted.places.get(name).copied();
        self.seen.truncate(pair);
        self.seen.push((name, place));
        place
    }
}

impl<'r> Fields<'r> {
    fn of(question: &Question, parts: &'r [Part<'r>]) -> Self {
        let mut fields = Self::default();
        for &part in &question.parts {
            fields.reads.push(parts[part].read);
            for field in parts[part].fields() {
                let first = *fields.places.entry(field).or_insert(fields.count);
                if first != fields.count {
                    fields.again.push((fields.count, first));
                }
                fields.count += 1;
            }
        }
        fields
    }

    fn is_of(&self, question: &Question, parts: &[Part<'_>]) -> bool {
        let same = |(known, &part): (&Option<&HashRead>, &usize)| match (known, parts[part].read) {
            (Some(known), Some(read)) => std::ptr::eq(*known, read),
            _ => false,
        };
        self.reads.len() == question.parts.len() && self.reads.iter().zip(&question.parts).all(same)
    }
}

/// Features' fields have four bytes: comparing those takes no call.
#[inline(always)]
fn is_same(a: &[u8], b: &[u8]) -> bool {
    match (<[u8; 4]>::try_from(a), <[u8; 4]>::try_from(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use weir_domain::catalog::Freshness;

    fn shape(view: &str, features: &[&str], hash_fields: usize) -> Shape {
        let cache = Freshness::default();
        Shape::Hash(Arc::new(HashRead::new(view, features.iter().copied(), hash_fields, cache)))
    }

    fn key(shape: &Shape, hash: &str) -> Bytes {
        let Shape::Hash(read) = shape else { unreachable!("a hash") };
        [&read.id[..], hash.as_bytes()].concat().into()
    }

    #[test]
    fn reads_of_one_hash_share_a_command_and_wide_reads_take_the_whole() {
        let (a, b) = (shape("a", &["x"], 12), shape("b", &["y", "z"], 12));
        let keys = [key(&a, "1"), key(&b, "1"), key(&b, "2")];
        let shapes = [a, b.clone(), b];
        let parts: Vec<Part<'_>> = keys.iter().zip(&shapes).map(|(k, s)| Part::of(k, s)).collect();
        let questions = questions(&parts);
        let seen: Vec<_> = questions.iter().map(|q| (q.parts.clone(), q.whole)).collect();
        assert_eq!(seen, [(vec![0, 1], true), (vec![2], false)]);
        let mut commands = Commands::default();
        questions.iter().for_each(|question| question.push(&parts, &mut commands));
        assert_eq!(commands.len(), 2);
        assert!(commands.get(0).starts_with(b"*2\r\n$7\r\nHGETALL\r\n$1\r\n1\r\n"));
        assert!(commands.get(1).starts_with(b"*5\r\n$5\r\nHMGET\r\n$1\r\n2\r\n"));
    }

    /// A whole hash as the server sends it.
    fn whole(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut reply = format!("*{}\r\n", 2 * pairs.len()).into_bytes();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            reply.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
            reply.extend_from_slice(text);
            reply.extend_from_slice(b"\r\n");
        }
        reply
    }

    #[test]
    fn fields_of_a_whole_hash_are_found_wherever_they_stand_and_whoever_else_wants_them() {
        let (a, b) = (shape("v", &["x", "y"], 3), shape("v", &["y", "z"], 3));
        let keys = [key(&a, "1"), key(&b, "1"), key(&a, "2"), key(&a, "3"), key(&b, "4")];
        let shapes = [a.clone(), b.clone(), a.clone(), a, b];
        let parts: Vec<Part<'_>> = keys.iter().zip(&shapes).map(|(k, s)| Part::of(k, s)).collect();
        let questions = questions(&parts);
        let [x, y, z] = ["x", "y", "z"].map(|name| weir_domain::feast::field("v", name));
        let replies = [
            whole(&[(b"_ts:v", b"\x08\x05"), (&x, b"1"), (&y, b"2"), (b"other", b"no"), (&z, b"3")]),
            // Nearly as the one before, then with a field less, then with what only others wanted of the last.
            whole(&[(b"_ts:v", b"\x08\x05"), (&y, b"2"), (&x, b"1"), (b"other", b"no"), (&z, b"3")]),
            whole(&[(b"_ts:v", b"\x08\x05"), (&y, b"a long value"), (b"other", b"no")]),
            whole(&[(b"_ts:v", b"\x08\x05"), (&y, b"2"), (&x, b"1"), (&z, b"3")]),
        ];
        let mut answers = vec![Answer::Nothing; keys.len()];
        let mut reader = Reader::of(&parts);
        for (question, reply) in questions.iter().zip(&replies) {
            assert!(question.whole);
            reader.take(question, reply, &mut answers).unwrap();
        }
        let row =
            |values: [Option<&[u8]>; 2]| Answer::Row(HashRow::pack(Some(b"\x08\x05"), &values).expect("a row").into());
        let both = row([Some(b"1"), Some(b"2")]);
        let others = row([Some(b"2"), Some(b"3")]);
        assert_eq!(answers, [both.clone(), others.clone(), both, row([None, Some(b"a long value")]), others]);
    }

    #[test]
    fn what_is_no_reply_to_the_question_is_garbage() {
        let a = shape("a", &["x"], 100);
        let keys = [key(&a, "1")];
        let shapes = [a];
        let parts: Vec<Part<'_>> = keys.iter().zip(&shapes).map(|(k, s)| Part::of(k, s)).collect();
        let questions = questions(&parts);
        let take = |reply: &[u8]| {
            let mut answers = [Answer::Nothing];
            Reader::of(&parts).take(&questions[0], reply, &mut answers).map(|()| answers)
        };
        assert!(matches!(take(b"*2\r\n$1\r\nv\r\n$-1\r\n"), Ok([Answer::Row(_)])));
        assert!(matches!(take(b"*2\r\n$-1\r\n$-1\r\n"), Ok([Answer::Nothing])));
        for reply in [&b"$1\r\na\r\n"[..], b"*3\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n", b"*2\r\n:1\r\n:2\r\n"] {
            assert_eq!(take(reply), Err(Garbage));
        }
    }
}
