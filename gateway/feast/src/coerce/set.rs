//! Python's `list(set(items))`: without duplicates, and in the order of CPython's hash table where that is an order at
//! all, that is for numbers. (The hashes of strings differ from process to process; they stay in order of mention.)

use std::collections::HashSet;

use super::py::Py;
use super::type_error;
use crate::Raised;

/// What decides whether two objects are the same to a set: numbers by value, whatever their type.
#[derive(PartialEq, Eq, Hash)]
enum Same<'v> {
    None,
    Int(i128),
    /// Beyond the integers here, or with a fraction: the bits.
    Float(u64),
    Big(&'v str),
    Str(&'v str),
    Bytes(&'v [u8]),
}

/// The items without those that equal an earlier one.
pub(super) fn of<'a>(items: &[Py<'a>]) -> Result<Vec<Py<'a>>, Raised> {
    let mut seen = HashSet::with_capacity(items.len());
    let mut unique = Vec::with_capacity(items.len());
    for item in items {
        let is_new = seen.insert(same(item)?);
        // Each NaN of an array is an object of its own and equals no other; that of `json.loads` is always the same.
        if is_new || matches!(item, Py::NpFloat(f) if f.is_nan()) {
            unique.push(item);
        }
    }
    let hashes: Option<Vec<i64>> = unique.iter().map(|item| hash(item)).collect();
    Ok(match hashes {
        Some(hashes) => order(&hashes).into_iter().filter_map(|i| unique.get(i).map(|item| (*item).clone())).collect(),
        None => unique.into_iter().cloned().collect(),
    })
}

fn same<'v>(item: &'v Py<'_>) -> Result<Same<'v>, Raised> {
    Ok(match item {
        Py::None => Same::None,
        Py::Bool(b) | Py::NpBool(b) => Same::Int(i128::from(*b)),
        Py::Int(i) | Py::NpInt(i) => Same::Int(i128::from(*i)),
        Py::NpUint(u) => Same::Int(i128::from(*u)),
        Py::Big(digits) => digits.parse().map_or(Same::Big(digits), Same::Int),
        Py::Float(f) | Py::NpFloat(f) if f.fract() == 0.0 && f.abs() < 1e38 => Same::Int(*f as i128),
        Py::Float(f) | Py::NpFloat(f) => Same::Float(f.to_bits()),
        Py::Str(s) => Same::Str(s),
        Py::Bytes(b) => Same::Bytes(b),
        Py::List(_) | Py::Dict(_) | Py::Array(..) | Py::Other(_) => {
            return Err(type_error(format!("unhashable type: '{}'", item.class())));
        }
    })
}

/// Numbers hash to themselves modulo this prime, 2^61 - 1.
const PRIME: u64 = (1 << 61) - 1;

/// The hash of a number; other hashes are nobody's business.
fn hash(item: &Py<'_>) -> Option<i64> {
    let (negative, rest) = match item {
        Py::Bool(b) | Py::NpBool(b) => (false, u64::from(*b)),
        Py::Int(i) | Py::NpInt(i) => (*i < 0, i.unsigned_abs() % PRIME),
        Py::NpUint(u) => (false, u % PRIME),
        Py::Big(digits) => (digits.starts_with('-'), digits.bytes().filter(u8::is_ascii_digit).fold(0, big_digit)),
        Py::Float(f) | Py::NpFloat(f) if f.is_infinite() => (*f < 0.0, 314_159),
        Py::Float(f) | Py::NpFloat(f) if f.is_finite() => (*f < 0.0, float(f.abs())),
        _ => return None,
    };
    let hash = if negative { -(rest as i64) } else { rest as i64 };
    Some(if hash == -1 { -2 } else { hash })
}

fn big_digit(so_far: u64, digit: u8) -> u64 {
    ((u128::from(so_far) * 10 + u128::from(digit - b'0')) % u128::from(PRIME)) as u64
}

/// A float's mantissa times a power of two, modulo the prime: 2^61 is 1, so that the power turns the bits.
fn float(float: f64) -> u64 {
    let bits = float.to_bits();
    let (exponent, fraction) = ((bits >> 52) as i64, bits & ((1 << 52) - 1));
    let (mantissa, exponent) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    let turn = exponent.rem_euclid(61) as u32;
    ((u128::from(mantissa) << turn) % u128::from(PRIME)) as u64
}

/// The places of distinct hashes in the order of a CPython set that they were added to one after the other.
fn order(hashes: &[i64]) -> Vec<usize> {
    let mut table = vec![None; 8];
    for (filled, _) in hashes.iter().enumerate() {
        insert(&mut table, hashes, filled);
        let used = filled + 1;
        if used * 5 >= (table.len() - 1) * 3 {
            let wanted = if used > 50_000 { used * 2 } else { used * 4 };
            let mut grown = vec![None; (wanted + 1).next_power_of_two()];
            table.into_iter().flatten().for_each(|item| insert(&mut grown, hashes, item));
            table = grown;
        }
    }
    table.into_iter().flatten().collect()
}

/// Open addressing: up to nine neighbours of a slot, then the next slot by the hash's higher bits.
fn insert(table: &mut [Option<usize>], hashes: &[i64], item: usize) {
    const NEIGHBOURS: usize = 9;
    let mask = table.len() - 1;
    let mut perturb = hashes[item] as usize;
    let mut slot = perturb & mask;
    loop {
        let last = if slot + NEIGHBOURS <= mask { slot + NEIGHBOURS } else { slot };
        if let Some(free) = (slot..=last).find(|&i| table[i].is_none()) {
            table[free] = Some(item);
            return;
        }
        perturb >>= 5;
        slot = slot.wrapping_mul(5).wrapping_add(1).wrapping_add(perturb) & mask;
    }
}
