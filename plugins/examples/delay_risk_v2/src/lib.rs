//! Risk that a flight leaves late, version 2: as version 1, and gusts and the spread of the route's delays
//! count too. The formula is in `delay_risk`; the weights are below.

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
        /// Speed of gusts in miles per hour; a hole when there are none.
        wind_gust_mph: f64,
        /// Standard deviation of the route's departure delay in minutes.
        route_delay_std_min: f64,
    },
    outputs: {
        /// Risk in 0..1.
        score: f64,
    },
    row: score,
}

/// Log-odds of a flight about which nothing speaks: one in ten leaves late.
const BIAS: f64 = -2.2;

fn score(row: Inputs) -> Outputs {
    let plane = plane_or_carrier(row.plane_delay_min, row.carrier_delay_min);
    let terms = [
        Term { value: row.crosswind_mph, full_at: 40.0, weight: 0.8 },
        Term { value: row.wind_gust_mph, full_at: 60.0, weight: 0.9 },
        Term { value: row.carrier_delay_min, full_at: 60.0, weight: 0.8 },
        Term { value: row.route_delay_min, full_at: 60.0, weight: 0.8 },
        Term { value: row.route_delay_std_min, full_at: 90.0, weight: 0.6 },
        Term { value: plane, full_at: 60.0, weight: 1.4 },
        Term { value: time_of_day(row.sched_hour), full_at: 1.0, weight: 1.1 },
    ];
    Outputs { score: Some(risk(BIAS, &terms)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(row: Inputs) -> f64 {
        score(row).score.unwrap()
    }

    #[test]
    fn gusts_and_an_unsteady_route_raise_the_risk() {
        let calm = Inputs { crosswind_mph: Some(10.0), route_delay_min: Some(8.0), ..Inputs::default() };
        let gusty = Inputs { wind_gust_mph: Some(35.0), ..calm };
        let unsteady = Inputs { route_delay_std_min: Some(45.0), ..gusty };
        assert!(of(calm) < of(gusty) && of(gusty) < of(unsteady) && of(unsteady) < 1.0);
    }

    #[test]
    fn a_plane_without_history_counts_as_its_carrier_does() {
        let carrier = Inputs { carrier_delay_min: Some(25.0), ..Inputs::default() };
        assert_eq!(of(carrier), of(Inputs { plane_delay_min: Some(25.0), ..carrier }));
    }
}
