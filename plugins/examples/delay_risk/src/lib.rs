//! What the versions of the delay risk share: a logistic over a few terms that grow with the risk.
//!
//! `risk = 1 / (1 + e^-(bias + Σ weight × term))`, each term clamped to 0..1 so that one absurd input cannot
//! decide alone. A hole contributes nothing: the other terms still count.

/// One influence on the risk.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// The input's value, if there is one.
    pub value: Option<f64>,
    /// The value at which the term counts in full, in the input's unit.
    pub full_at: f64,
    /// How much it adds at most, in log-odds.
    pub weight: f64,
}

/// The risk, in 0..1.
pub fn risk(bias: f64, terms: &[Term]) -> f64 {
    let sum: f64 = terms.iter().map(|t| t.weight * share(t.value, t.full_at)).sum();
    1.0 / (1.0 + (-(bias + sum)).exp())
}

/// A plane's own history where there is one, else its carrier's: new and swapped planes have none.
pub fn plane_or_carrier(plane_delay_min: Option<f64>, carrier_delay_min: Option<f64>) -> Option<f64> {
    plane_delay_min.or(carrier_delay_min)
}

/// Delays pile up through the day and are forgotten overnight: 0 at five in the morning, 1 from eight in
/// the evening, and the small hours still carry the evening before.
pub fn time_of_day(sched_hour: Option<i64>) -> Option<f64> {
    sched_hour.map(|hour| match hour.rem_euclid(24) {
        hour @ 5..20 => (hour - 5) as f64 / 15.0,
        _ => 1.0,
    })
}

fn share(value: Option<f64>, full_at: f64) -> f64 {
    match value {
        Some(value) if !value.is_nan() => (value / full_at).clamp(0.0, 1.0),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(value: Option<f64>) -> Term {
        Term { value, full_at: 10.0, weight: 2.0 }
    }

    #[test]
    fn the_risk_grows_with_a_term_up_to_its_limit() {
        let at = |v| risk(-1.0, &[term(Some(v))]);
        assert!(at(0.0) < at(5.0) && at(5.0) < at(10.0));
        assert_eq!(at(10.0), at(1e300));
        assert_eq!(at(0.0), at(-40.0));
    }

    #[test]
    fn a_hole_and_a_nan_count_like_nothing() {
        assert_eq!(risk(-1.0, &[term(None)]), risk(-1.0, &[]));
        assert_eq!(risk(-1.0, &[term(Some(f64::NAN))]), risk(-1.0, &[]));
    }

    #[test]
    fn the_day_starts_at_five_and_the_night_belongs_to_the_evening() {
        let at = |hour| time_of_day(Some(hour)).unwrap();
        assert_eq!((at(5), at(20), at(23), at(3), at(-1)), (0.0, 1.0, 1.0, 1.0, 1.0));
        assert!(at(9) < at(17));
    }
}
