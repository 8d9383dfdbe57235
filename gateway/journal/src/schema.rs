//! The shape of a service's records, as it is written into the queue and at the head of each segment: whoever
//! finds a segment can read it without the catalog.

use serde::{Deserialize, Serialize};
use weir_domain::FeatureType;
use weir_domain::plan::{OutputSource, Plan};

use crate::wire::Malformed;

/// What a record's columns are called and hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Schema {
    pub(crate) service: String,
    pub(crate) catalog: String,
    /// For how many units one of the service's sample stands.
    pub(crate) weight: f64,
    pub(crate) keys: Vec<KeySchema>,
    pub(crate) reads: Vec<ReadSchema>,
    pub(crate) outputs: Vec<OutputSchema>,
}

/// A join key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeySchema {
    pub(crate) name: String,
    #[serde(with = "spelled")]
    pub(crate) of: FeatureType,
}

/// A view that was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReadSchema {
    pub(crate) alias: String,
    pub(crate) view: String,
    pub(crate) version: u32,
    /// Which of `keys` it is read by, in the order of its entity. Segments of earlier versions do not say.
    #[serde(default)]
    pub(crate) keys: Vec<usize>,
}

/// A column of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OutputSchema {
    /// `source:feature`.
    pub(crate) name: String,
    #[serde(with = "spelled")]
    pub(crate) of: FeatureType,
    /// Which of `reads` it comes from, if from one.
    pub(crate) read: Option<usize>,
}

/// Types are spelled as in the catalog, so that a schema frame is readable by eye.
mod spelled {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use weir_domain::FeatureType;

    pub(super) fn serialize<S: Serializer>(of: &FeatureType, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(of)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<FeatureType, D::Error> {
        let text = String::deserialize(from)?;
        FeatureType::parse(&text).ok_or_else(|| D::Error::custom("no such type"))
    }
}

impl Schema {
    /// The shape of what this plan answers.
    pub(crate) fn of(plan: &Plan) -> Self {
        let keys =
            plan.keys.iter().map(|k| KeySchema { name: k.key.name.to_string(), of: FeatureType::One(k.key.kind) });
        let reads = plan.reads.iter().map(|r| ReadSchema {
            alias: r.alias.to_string(),
            view: r.view.doc.name.to_string(),
            version: r.view.version,
            keys: r.keys.clone(),
        });
        let outputs = plan.outputs.iter().map(|o| OutputSchema {
            name: o.name.to_string(),
            of: o.of,
            read: match o.source {
                OutputSource::Read(i) => Some(i),
                OutputSource::Step(_) | OutputSource::Request(_) => None,
            },
        });
        Self {
            service: plan.service.to_string(),
            catalog: plan.catalog.to_string(),
            weight: plan.sample.weight(),
            keys: keys.collect(),
            reads: reads.collect(),
            outputs: outputs.collect(),
        }
    }

    /// A frame's body: the id that records will use, then the schema as JSON.
    pub(crate) fn encode(&self, id: u32) -> Vec<u8> {
        let mut body = id.to_le_bytes().to_vec();
        // Strings and numbers only: there is nothing in it that JSON could refuse.
        body.extend_from_slice(&serde_json::to_vec(self).unwrap_or_default());
        body
    }

    /// The id and the schema in a frame's body.
    pub(crate) fn decode(body: &[u8]) -> Result<(u32, Self), Malformed> {
        const WHAT: Malformed = Malformed("a schema");
        let (id, json) = body.split_first_chunk::<4>().ok_or(WHAT)?;
        let schema: Self = serde_json::from_slice(json).map_err(|_| WHAT)?;
        // Keys are never lists; a list could not be broadcast into a key's column.
        if schema.keys.iter().any(|k| matches!(k.of, FeatureType::List(_))) {
            return Err(WHAT);
        }
        Ok((u32::from_le_bytes(*id), schema))
    }

    /// The id alone: the writer needs no more.
    pub(crate) fn id(body: &[u8]) -> Option<u32> {
        body.first_chunk().map(|id| u32::from_le_bytes(*id))
    }
}
