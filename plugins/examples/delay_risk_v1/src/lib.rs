//! Risk that a flight leaves late, version 1: crosswind, the history of carrier, route and plane, and the
//! hour. The formula is in `delay_risk`; the weights are below.

use delay_risk::{Term, plane_or_carrier, risk, time_of_day};

weir_plugin::transform! {
    inputs: {
        /// Wind across the runway in miles per hour.
        crosswind_mph: f64,
        /// The carrier's usual departure delay in minutes.
        carrier_delay_min: f64,
        /// The route's usual departure delay in minutes.
        route_delay_min: f64,
        /// The plane's usual departure delay in minutes; the carrier's stands in where there is none.
        plane_delay_min: f64,
        /// Scheduled hour of departure, local, 0..23.
        sched_hour: i64,
    },
    outputs: {
        /// Risk in 0..1.
        score: f64,
    },
    row: score,
}

/// Log-odds of a flight about which nothing speaks: one in nine leaves late.
const BIAS: f64 = -2.1;

fn score(row: Inputs) -> Outputs {
    let plane = plane_or_carrier(row.plane_delay_min, row.carrier_delay_min);
    let terms = [
        Term { value: row.crosswind_mph, full_at: 40.0, weight: 1.2 },
        Term { value: row.carrier_delay_min, full_at: 60.0, weight: 0.8 },
        Term { value: row.route_delay_min, full_at: 60.0, weight: 1.0 },
        Term { value: plane, full_at: 60.0, weight: 1.4 },
        Term { value: time_of_day(row.sched_hour), full_at: 1.0, weight: 1.1 },
    ];
    Outputs { score: Some(risk(BIAS, &terms)) }
}

#[cfg(test)]
mod tests {
    use weir_plugin::testing::Table;

    use super::*;

    fn of(row: Inputs) -> f64 {
        score(row).score.unwrap()
    }

    #[test]
    fn a_windy_evening_is_riskier_than_a_calm_morning() {
        let morning = of(Inputs { crosswind_mph: Some(2.0), sched_hour: Some(6), ..Inputs::default() });
        let evening = of(Inputs { crosswind_mph: Some(30.0), sched_hour: Some(20), ..Inputs::default() });
        assert!(0.0 < morning && morning < evening && evening < 1.0);
    }

    #[test]
    fn a_plane_without_history_counts_as_its_carrier_does() {
        let carrier = Inputs { carrier_delay_min: Some(25.0), ..Inputs::default() };
        assert_eq!(of(carrier), of(Inputs { plane_delay_min: Some(25.0), ..carrier }));
        assert!(of(carrier) > of(Inputs { plane_delay_min: Some(0.0), ..carrier }));
    }

    #[test]
    fn a_flight_of_which_nothing_is_known_still_has_a_score() {
        let answer = Table::new()
            .column::<f64>("crosswind_mph", [None])
            .column::<f64>("carrier_delay_min", [None])
            .column::<f64>("route_delay_min", [None])
            .column::<f64>("plane_delay_min", [None])
            .column::<i64>("sched_hour", [None])
            .run::<Transform>()
            .unwrap();
        assert_eq!(answer.column::<f64>("score").unwrap(), [Some(risk(BIAS, &[]))]);
    }
}
