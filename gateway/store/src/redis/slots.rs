//! Which of a cluster's 16,384 slots a key is in, and what nodes say about who has them. Pure: no connection is
//! known here. The rules are those of the Redis Cluster specification.

use std::collections::HashMap;

use ::redis::Value;

use super::dial::Place;

/// Slots of a cluster.
pub(super) const SLOTS: usize = 16_384;

/// The slot of a key: CRC16 (XMODEM) of the key, or of what stands in its first pair of braces if that is not
/// empty, so that keys can be made to live together.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|b| *b == b'}')?;
        (close > 0).then_some(&rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS as u16
}

/// Four bytes at a time: each step has to wait for the one before.
fn crc16(bytes: &[u8]) -> u16 {
    let (fours, rest) = bytes.as_chunks::<4>();
    let crc = fours.iter().fold(0u16, |crc, [a, b, c, d]| {
        let [high, low] = crc.to_be_bytes();
        let of = |table: usize, byte: u8| CRC16[table][usize::from(byte)];
        of(3, a ^ high) ^ of(2, b ^ low) ^ of(1, *c) ^ of(0, *d)
    });
    rest.iter().fold(crc, |crc, byte| crc << 8 ^ CRC16[0][usize::from((crc >> 8) as u8 ^ byte)])
}

/// What a byte does to the checksum, with as many bytes of nothing behind it as the table has before it.
const CRC16: [[u16; 256]; 4] = {
    let mut tables = [[0; 256]; 4];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut table = 0;
        while table < 4 {
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
                bit += 1;
            }
            tables[table][i] = crc;
            table += 1;
        }
        i += 1;
    }
    tables
};

/// Slots from `first` to `last`, both included, the master that has them, and the replicas that copy it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Place,
    pub(super) replicas: Vec<Place>,
}

/// Who has which slot.
pub(super) struct Table {
    pub(super) ranges: Vec<Range>,
    /// Every master once.
    pub(super) places: Vec<Place>,
    /// By master.
    pub(super) replicas: Vec<Vec<Place>>,
    /// By slot: an index into `places`, or [`NOBODY`].
    owners: Box<[u16]>,
}

/// Replicas of one master that are read from. With more there is nothing to win, and each costs connections.
pub(super) const REPLICAS_MAX: usize = 3;

/// In the place of the owner of a slot that nobody has.
const NOBODY: u16 = u16::MAX;

impl Table {
    /// Of ranges as read, in any order; where two say something of one slot, the later wins.
    pub(super) fn of(mut ranges: Vec<Range>) -> Self {
        // Nodes tell the same in different orders.
        ranges.sort_by_key(|range| range.first);
        let (mut places, mut replicas) = (Vec::new(), Vec::<Vec<Place>>::new());
        let mut known: HashMap<Place, u16> = HashMap::new();
        let mut owners = vec![NOBODY; SLOTS].into_boxed_slice();
        for range in &ranges {
            let owner = *known.entry(range.master.clone()).or_insert_with(|| {
                places.push(range.master.clone());
                replicas.push(vec![]);
                (places.len() - 1) as u16
            });
            let of_owner = &mut replicas[usize::from(owner)];
            let news = range.replicas.iter().filter(|replica| !of_owner.contains(replica));
            let news: Vec<Place> = news.take(REPLICAS_MAX.saturating_sub(of_owner.len())).cloned().collect();
            of_owner.extend(news);
            owners[usize::from(range.first)..=usize::from(range.last)].fill(owner);
        }
        Self { ranges, places, replicas, owners }
    }

    /// Which of the places has the slot.
    pub(super) fn owner(&self, slot: u16) -> Option<usize> {
        Some(self.owners[usize::from(slot)]).filter(|owner| *owner != NOBODY).map(usize::from)
    }

    /// Whether the masters have the same slots, whoever copies them.
    pub(super) fn has_same_owners(&self, other: &Self) -> bool {
        self.places == other.places && self.owners == other.owners
    }

    /// Slots that nobody has.
    pub(super) fn unowned(&self) -> usize {
        self.owners.iter().filter(|owner| **owner == NOBODY).count()
    }
}

/// A reply to CLUSTER SLOTS, as said by the node at `teller`; `None` when it is not one. Every range is
/// `[first, last, [host, port, …], replicas…]`; the port is the one for TLS when asked over TLS.
pub(super) fn read_slots(reply: &Value, teller: &Place) -> Option<Vec<Range>> {
    let Value::Array(ranges) = reply else { return None };
    let read = |range: &Value| {
        let Value::Array(parts) = range else { return None };
        let [Value::Int(first), Value::Int(last), master, replicas @ ..] = &parts[..] else { return None };
        let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        if first > last || usize::from(last) >= SLOTS {
            return None;
        }
        let master = node(master, teller)?;
        // Nodes tell the same in different orders. One that cannot be reached by what is said of it is not needed.
        let mut replicas: Vec<Place> = replicas.iter().filter_map(|replica| node(replica, teller)).collect();
        replicas.retain(|replica| *replica != master);
        replicas.sort();
        Some(Range { first, last, master, replicas })
    };
    ranges.iter().map(read).collect()
}

fn node(said: &Value, teller: &Place) -> Option<Place> {
    let Value::Array(parts) = said else { return None };
    let [host, Value::Int(port), ..] = &parts[..] else { return None };
    place(text(host)?, (*port).try_into().ok()?, teller)
}

/// Where a node sends us instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) to: Place,
    /// Only this once, and with leave: the slot is being moved, and the key was not where it should be.
    pub(super) is_ask: bool,
}

/// `MOVED slot host:port` or `ASK slot host:port`, as said by the node at `teller`.
pub(super) fn read_redirect(code: &str, detail: Option<&str>, teller: &Place) -> Option<Redirect> {
    let is_ask = match code {
        "ASK" => true,
        "MOVED" => false,
        _ => return None,
    };
    let (_slot, address) = detail?.split_once(' ')?;
    // The last colon: an IPv6 address has more, and no brackets here.
    let (host, port) = address.rsplit_once(':')?;
    Some(Redirect { to: place(host, port.parse().ok()?, teller)?, is_ask })
}

/// A node that does not know its own address (or is told not to say) names none, or "?": it is where the one who
/// says so was reached, at the port it names.
fn place(host: &str, port: u16, teller: &Place) -> Option<Place> {
    if port == 0 {
        return None;
    }
    match (host, teller) {
        ("" | "?", Place::Tcp(reached, _)) => Some(Place::Tcp(reached.clone(), port)),
        ("" | "?", Place::Socket(_)) => None,
        (host, _) => Some(Place::tcp(host, port)),
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::Nil => Some(""),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [("", 0), ("foo", 12182), ("{foo}x", 12182), ("a{foo}b{bar}", 12182), ("user1000", 3443)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        // Braces that enclose nothing are part of the key, and only the first pair counts.
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS as u16);
        assert_eq!(slot_of(b"foo{{bar}}zap"), crc16(b"{bar") % SLOTS as u16);
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") % SLOTS as u16);
    }

    fn of(first: u16, last: u16, master: Place, replicas: Vec<Place>) -> Range {
        Range { first, last, master, replicas }
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = Value::Array(vec![host, Value::Int(port), bulk("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node.clone(), node])
    }

    #[test]
    fn a_node_without_a_name_is_where_it_was_reached() {
        let teller = Place::tcp("here", 7000);
        for unnamed in [bulk(""), bulk("?"), Value::Nil] {
            let reply = Value::Array(vec![range(0, 5, bulk("10.0.0.1"), 7001), range(6, 16_383, unnamed, 7002)]);
            let wanted =
                [of(0, 5, Place::tcp("10.0.0.1", 7001), vec![]), of(6, 16_383, Place::tcp("here", 7002), vec![])];
            assert_eq!(read_slots(&reply, &teller).unwrap(), wanted);
        }
        for (address, wanted) in [("[::1]", "[::1]"), ("fe80::1", "fe80::1"), ("", "here"), ("?", "here"), ("h", "h")] {
            let redirect = read_redirect("ASK", Some(&format!("7 {address}:1")), &teller).unwrap();
            assert_eq!(redirect, Redirect { to: Place::tcp(wanted, 1), is_ask: true });
        }
    }

    #[test]
    fn a_table_knows_every_owner_and_every_gap() {
        let range = |first, last, port| of(first, last, Place::tcp("h", port), vec![]);
        let table = Table::of(vec![range(10, 20, 2), range(0, 5, 1), range(100, 16_383, 1)]);
        assert_eq!(table.places, [Place::tcp("h", 1), Place::tcp("h", 2)]);
        let owners = [0, 5, 6, 9, 10, 20, 21, 99, 100, 16_383].map(|slot| table.owner(slot));
        let (one, two) = (Some(0), Some(1));
        assert_eq!(owners, [one, one, None, None, two, two, None, None, one, one]);
        assert_eq!(table.unowned(), 4 + 79);
        assert_eq!(table.ranges, Table::of(vec![range(0, 5, 1), range(100, 16_383, 1), range(10, 20, 2)]).ranges);
    }

    #[test]
    fn a_master_s_replicas_are_known_whoever_tells_of_them() {
        let teller = Place::tcp("here", 7000);
        let node = |host: &str, port| Value::Array(vec![bulk(host), Value::Int(port), bulk("id")]);
        let said = |nodes: &[(&str, i64)]| {
            let nodes = nodes.iter().map(|(host, port)| node(host, *port));
            Value::Array(vec![Value::Array([Value::Int(0), Value::Int(5)].into_iter().chain(nodes).collect())])
        };
        let replicas = |ports: &[u16]| ports.iter().map(|port| Place::tcp("h", *port)).collect::<Vec<_>>();
        let one = read_slots(&said(&[("h", 1), ("h", 4), ("h", 0), ("h", 3), ("h", 1)]), &teller).unwrap();
        assert_eq!(one, [of(0, 5, Place::tcp("h", 1), replicas(&[3, 4]))]);
        assert_eq!(read_slots(&said(&[("h", 1), ("h", 3), ("h", 4)]), &teller).unwrap(), one, "in any order");
        let more = of(6, 9, Place::tcp("h", 1), replicas(&[4, 5, 6, 7]));
        let table = Table::of([&one[..], &[more, of(10, 12, Place::tcp("h", 2), vec![])]].concat());
        assert_eq!(table.replicas, [replicas(&[3, 4, 5]), vec![]]);
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        let teller = Place::tcp("here", 7000);
        let host = || bulk("h");
        let bad = [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 16_384, host(), 1)]),
            Value::Array(vec![range(5, 4, host(), 1)]),
            Value::Array(vec![range(-1, 4, host(), 1)]),
            Value::Array(vec![range(0, 4, host(), 0)]),
            Value::Array(vec![range(0, 4, host(), 65_536)]),
            Value::Array(vec![range(0, 4, Value::Int(4), 1)]),
            Value::Array(vec![Value::Array(vec![Value::Int(0), Value::Int(5)])]),
        ];
        for reply in bad {
            assert_eq!(read_slots(&reply, &teller), None, "{reply:?}");
        }
        for detail in [None, Some(""), Some("7"), Some("7 h"), Some("7 h:x"), Some("7 h:0")] {
            assert_eq!(read_redirect("MOVED", detail, &teller), None, "{detail:?}");
        }
        assert_eq!(read_redirect("ERR", Some("7 h:1"), &teller), None);
    }
}
