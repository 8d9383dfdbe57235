//! Which rows are asked for. The same options give the same keys on every run and in every command, so that a
//! gateway, a floor and a bare Redis client are asked the same questions.

use bytes::{BufMut, Bytes, BytesMut};
use clap::Args;
use prost::Message;
use weir_proto::v1::values::Kind;
use weir_proto::v1::{Column, GetFeaturesRequest, Strings, Values};

use crate::random::Random;

/// Before a gRPC message: a byte that says "not compressed" and four of length.
pub(crate) const FRAME_HEADER: usize = 5;
/// The join key that `bench/data.py` gives its entities.
pub(crate) const KEY: &str = "id";
/// Any number does; it only has to stay the same.
const SEED: u64 = 0x5EED;

/// What to ask for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Ask {
    /// Feature service to ask.
    #[arg(long, default_value = "hits")]
    service: String,
    /// Join keys that hold for the whole request.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    /// Items of a request.
    #[arg(long, default_value_t = 100)]
    items: usize,
    /// Entities to draw items from, uniformly.
    #[arg(long, default_value_t = 20_000)]
    keys: u32,
    /// Different requests, sent in turn: 1 asks for the same items for ever, 1,024 of 100 items touch 99 % of
    /// 20,000 entities.
    #[arg(long, default_value_t = 1)]
    bodies: usize,
}

impl Ask {
    /// The items' keys, request by request.
    pub(crate) fn ids(&self) -> Vec<Vec<String>> {
        let mut random = Random::new(SEED);
        let mut id = || format!("e{:07}", random.below(self.keys.max(1)));
        (0..self.bodies.max(1)).map(|_| (0..self.items).map(|_| id()).collect()).collect()
    }

    /// The requests as gRPC frames.
    pub(crate) fn frames(&self) -> Vec<Bytes> {
        self.ids().into_iter().enumerate().map(|(n, ids)| frame(&self.request(n, ids))).collect()
    }

    fn request(&self, n: usize, ids: Vec<String>) -> GetFeaturesRequest {
        let column = |name: &str, values| Column {
            name: name.to_owned(),
            values: Some(Values { kind: Some(Kind::Strings(Strings { values })) }),
        };
        let context = self.context.iter().map(|(name, value)| column(name, vec![value.clone()])).collect();
        let (service, items) = (self.service.clone(), vec![column(KEY, ids)]);
        // A unit each, so that experiments have somebody to assign.
        GetFeaturesRequest { service, context, items, unit: format!("u{n}"), ..Default::default() }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn frame(message: &impl Message) -> Bytes {
    framed(&message.encode_to_vec())
}

/// An encoded message as gRPC sends it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(FRAME_HEADER + message.len());
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.extend_from_slice(message);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(bodies: usize) -> Ask {
        Ask { service: "hits".into(), context: Vec::new(), items: 100, keys: 20_000, bodies }
    }

    #[test]
    fn the_same_options_ask_the_same_questions() {
        assert_eq!(ask(3).frames(), ask(3).frames());
        assert_eq!(ask(1).ids()[0], ask(3).ids()[0]);
    }

    #[test]
    fn spread_requests_touch_nearly_every_entity() {
        let mut touched: Vec<String> = ask(1024).ids().into_iter().flatten().collect();
        touched.sort_unstable();
        touched.dedup();
        assert!(touched.len() > 19_800, "{}", touched.len());
        assert!(touched.iter().all(|id| id.len() == 8 && **id < *"e0020000"));
    }

    #[test]
    fn a_frame_is_a_header_and_the_message() {
        let frame = &ask(1).frames()[0];
        assert_eq!(frame[0], 0, "not compressed");
        assert_eq!(frame[1..FRAME_HEADER], ((frame.len() - FRAME_HEADER) as u32).to_be_bytes());
        let request = GetFeaturesRequest::decode(&frame[FRAME_HEADER..]).unwrap();
        assert_eq!(request.service, "hits");
    }
}
