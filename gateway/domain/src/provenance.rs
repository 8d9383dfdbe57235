//! Where each served value comes from: one closed enum, one byte, the same byte in the reply, in the
//! journal, in the metrics and in the reports. Numbers are part of the wire contract and never change.

/// The origin of one value. Its numeric value is what the reply and the journal carry.
///
/// Values come in three groups: *present* (the value is real), *defaulted* (the catalog's default stands
/// in, and the name says what was wrong) and *absent* (there is no value; the reason is the same).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Provenance {
    /// Read from the store for this request.
    Store = 1,
    /// Read from the cache, still fresh.
    Cache = 2,
    /// Read from the cache past its freshness: the store did not answer in time, or is asked again in the background.
    Stale = 3,
    /// Computed by a transform.
    Computed = 4,
    /// Sent by the caller with the request.
    Caller = 5,

    /// Default: the store has no such entity, or the entity has no such value.
    DefaultMissing = 16,
    /// Default: too late for the budget, as with [`Late`](Self::Late).
    DefaultLate = 17,
    /// Default: the stored bytes are not a row of this view's schema.
    DefaultInvalid = 18,
    /// Default: the transform failed or ran out of its limits.
    DefaultTransform = 19,
    /// Default: the stored value is older than the view's ttl.
    DefaultExpired = 20,
    /// Default: the store refused or could not be reached.
    DefaultUnavailable = 21,
    /// Default: there was too much load to read or compute the value.
    DefaultShed = 22,

    /// No value: the store has no such entity, or the entity has no such value.
    Missing = 32,
    /// No value: too late for the budget: the store's answer, or a transform that what was left could not pay for.
    Late = 33,
    /// No value: the stored bytes are not a row of this view's schema.
    Invalid = 34,
    /// No value: the transform failed or ran out of its limits.
    TransformError = 35,
    /// No value: the stored value is older than the view's ttl.
    Expired = 36,
    /// No value: the store refused or could not be reached.
    Unavailable = 37,
    /// No value: there was too much load to read or compute it.
    Shed = 38,
}

impl Provenance {
    /// Every provenance there is, in numeric order.
    pub const ALL: [Provenance; 19] = [
        Self::Store,
        Self::Cache,
        Self::Stale,
        Self::Computed,
        Self::Caller,
        Self::DefaultMissing,
        Self::DefaultLate,
        Self::DefaultInvalid,
        Self::DefaultTransform,
        Self::DefaultExpired,
        Self::DefaultUnavailable,
        Self::DefaultShed,
        Self::Missing,
        Self::Late,
        Self::Invalid,
        Self::TransformError,
        Self::Expired,
        Self::Unavailable,
        Self::Shed,
    ];

    /// The name used in JSON, in the journal and as metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "STORE",
            Self::Cache => "CACHE",
            Self::Stale => "STALE",
            Self::Computed => "COMPUTED",
            Self::Caller => "CALLER",
            Self::DefaultMissing => "DEFAULT_MISSING",
            Self::DefaultLate => "DEFAULT_LATE",
            Self::DefaultInvalid => "DEFAULT_INVALID",
            Self::DefaultTransform => "DEFAULT_TRANSFORM",
            Self::DefaultExpired => "DEFAULT_EXPIRED",
            Self::DefaultUnavailable => "DEFAULT_UNAVAILABLE",
            Self::DefaultShed => "DEFAULT_SHED",
            Self::Missing => "MISSING",
            Self::Late => "LATE",
            Self::Invalid => "INVALID",
            Self::TransformError => "TRANSFORM_ERROR",
            Self::Expired => "EXPIRED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Shed => "SHED",
        }
    }

    /// The byte's meaning, or `None` for a byte this version does not know.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|p| *p as u8 == byte)
    }

    /// A real value stands here (not a default, not a hole).
    pub const fn is_real(self) -> bool {
        (self as u8) < Self::DefaultMissing as u8
    }

    /// A default stands here.
    pub const fn is_default(self) -> bool {
        (self as u8) >= Self::DefaultMissing as u8 && (self as u8) < Self::Missing as u8
    }

    /// Nothing stands here.
    pub const fn is_absent(self) -> bool {
        (self as u8) >= Self::Missing as u8
    }

    /// The provenance that all of these are of, as most columns of most answers are. One vectorised pass.
    pub fn common(of: &[Self]) -> Option<Self> {
        let first = *of.first()?;
        let differing = of.iter().fold(0, |differing, p| differing | (*p as u8 ^ first as u8));
        (differing == 0).then_some(first)
    }

    /// What an absent value becomes once its default is filled in; anything else stays as it is.
    pub const fn defaulted(self) -> Self {
        match self {
            Self::Missing => Self::DefaultMissing,
            Self::Late => Self::DefaultLate,
            Self::Invalid => Self::DefaultInvalid,
            Self::TransformError => Self::DefaultTransform,
            Self::Expired => Self::DefaultExpired,
            Self::Unavailable => Self::DefaultUnavailable,
            Self::Shed => Self::DefaultShed,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provenance_is_in_exactly_one_group_and_survives_its_byte() {
        for p in Provenance::ALL {
            let groups = [p.is_real(), p.is_default(), p.is_absent()];
            assert_eq!(groups.iter().filter(|g| **g).count(), 1, "{p:?}");
            assert_eq!(Provenance::from_byte(p as u8), Some(p));
        }
        assert_eq!(Provenance::from_byte(0), None);
    }

    #[test]
    fn an_absent_value_keeps_its_reason_when_defaulted() {
        for p in Provenance::ALL {
            let d = p.defaulted();
            assert_eq!(p.is_absent(), d != p);
            assert!(!d.is_absent());
            if p.is_absent() && p != Provenance::TransformError {
                assert_eq!(d.name(), format!("DEFAULT_{}", p.name()));
            }
        }
    }
}
