//! What a trip costs. Stands in for an on-demand view of Feast's, which is Python:
//!
//! ```python
//! @on_demand_feature_view(
//!     sources=[driver_rates, RequestSource(name="trip", schema=[Field(name="distance_km", dtype=Float64)])],
//!     schema=[Field(name="fare", dtype=Float64), Field(name="is_long", dtype=Bool), Field(name="note", dtype=String)],
//! )
//! def trip_fare(inputs: pd.DataFrame) -> pd.DataFrame: ...
//! ```
//!
//! View features and request data are inputs alike.

weir_plugin::transform! {
    inputs: {
        /// What a kilometre costs.
        per_km: f64,
        /// What every trip costs.
        base: i64,
        /// How far it is, from the request.
        distance_km: f64,
    },
    outputs: {
        /// What the trip costs.
        fare: f64,
        /// Whether it takes a while.
        is_long: bool,
        /// For the receipt.
        note: str,
    },
    row: trip_fare,
}

/// From here on a trip is long.
const LONG_KM: f64 = 100.0;

fn trip_fare(row: Inputs<'_>) -> Outputs {
    let is_long = row.distance_km.map(|km| km >= LONG_KM);
    let fare = match (row.base, row.per_km, row.distance_km) {
        (Some(base), Some(per_km), Some(km)) => Some(base as f64 + per_km * km),
        _ => None,
    };
    let note = fare.map(|fare| format!("{fare:.2}"));
    Outputs { fare, is_long, note }
}

#[cfg(test)]
mod tests {
    use weir_plugin::testing::Table;

    use super::*;

    #[test]
    fn a_trip_costs_its_base_and_its_kilometres_and_without_a_rate_nothing_is_known() {
        let answer = Table::new()
            .column::<f64>("per_km", [Some(0.5), None])
            .column::<i64>("base", [Some(3), Some(3)])
            .column::<f64>("distance_km", [Some(120.0), Some(10.0)])
            .run::<Transform>()
            .unwrap();
        assert_eq!(answer.column::<f64>("fare").unwrap(), [Some(63.0), None]);
        assert_eq!(answer.column::<bool>("is_long").unwrap(), [Some(true), Some(false)]);
        assert_eq!(answer.column::<str>("note").unwrap(), [Some("63.00".to_owned()), None]);
    }
}
