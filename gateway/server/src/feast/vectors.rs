//! Vectors that Feast computed beforehand, between the store that holds them and everything that knows only views.

use bytes::Bytes;
use weir_feast::{Found, Lookup, Raised, vectors};
use weir_store::{HashFound, Hashes};

use super::serve::found;

/// What was found of the vectors as what all reads would have found, and by entity whether it is too old.
pub(super) fn taken_apart(lookup: &Lookup, hashes: Hashes, now_us: i64) -> Result<(Hashes, Vec<bool>), Raised> {
    let found: Vec<Found<'_>> = hashes.found.iter().map(found).collect();
    let mut apart = Hashes { found: Vec::new(), rows: Vec::new(), was_cut: hashes.was_cut };
    let mut old = Vec::new();
    for (vector, whole) in vectors(lookup, &found, now_us)?.into_iter().zip(&hashes.found) {
        let mut vector = vector.unwrap_or_default().into_iter();
        for _ in &lookup.reads {
            let row = vector.next();
            old.push(row.as_ref().is_some_and(|row| row.is_old));
            apart.found.push(match (row, whole) {
                (Some(row), HashFound::Row { provenance, age_ms, .. }) => {
                    HashFound::Row { row: Bytes::from(row.bytes), provenance: *provenance, age_ms: *age_ms }
                }
                _ => whole.clone(),
            });
        }
    }
    let entities = hashes.rows.first().map(Vec::as_slice).unwrap_or_default();
    let reads = lookup.reads.len() as u32;
    apart.rows.extend((0..reads).map(|read| entities.iter().map(|entity| entity * reads + read).collect()));
    Ok((apart, old))
}
