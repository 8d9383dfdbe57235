//! Wind across and along a runway, from the reported wind and the runway's heading.

weir_plugin::transform! {
    inputs: {
        /// Wind speed in miles per hour.
        wind_speed_mph: f64,
        /// Where the wind comes from, in degrees from north, clockwise.
        wind_dir_deg: f64,
        /// Where the runway points, in degrees from north, clockwise.
        runway_heading_deg: f64,
    },
    outputs: {
        /// Wind across the runway, from either side, in miles per hour.
        crosswind_mph: f64,
        /// Wind against the direction of landing, negative from behind, in miles per hour.
        headwind_mph: f64,
    },
    row: crosswind,
}

fn crosswind(row: Inputs) -> Outputs {
    let (Some(speed), Some(from), Some(heading)) = (row.wind_speed_mph, row.wind_dir_deg, row.runway_heading_deg)
    else {
        return Outputs::default();
    };
    let angle = (from - heading).to_radians();
    // `+ 0.0` turns the -0.0 of a calm from behind into 0.0.
    Outputs { crosswind_mph: Some((speed * angle.sin()).abs()), headwind_mph: Some(speed * angle.cos() + 0.0) }
}

#[cfg(test)]
mod tests {
    use weir_plugin::testing::Table;

    use super::*;

    fn wind(speed: f64, from: f64, heading: f64) -> (f64, f64) {
        let out = crosswind(Inputs {
            wind_speed_mph: Some(speed),
            wind_dir_deg: Some(from),
            runway_heading_deg: Some(heading),
        });
        (out.crosswind_mph.unwrap(), out.headwind_mph.unwrap())
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn wind_from_ahead_is_all_headwind_and_from_behind_all_tailwind() {
        let (across, along) = wind(20.0, 90.0, 90.0);
        assert!(near(across, 0.0) && near(along, 20.0));
        let (across, along) = wind(20.0, 270.0, 90.0);
        assert!(near(across, 0.0) && near(along, -20.0));
    }

    #[test]
    fn wind_from_either_side_is_all_crosswind_even_past_north() {
        let (across, along) = wind(20.0, 350.0, 80.0);
        assert!(near(across, 20.0) && near(along, 0.0));
        let (across, along) = wind(20.0, 10.0, 280.0);
        assert!(near(across, 20.0) && near(along, 0.0));
    }

    #[test]
    fn calm_is_zero_whatever_its_direction() {
        for from in [0.0, 123.0, 180.0, 360.0] {
            assert_eq!(wind(0.0, from, 40.0), (0.0, 0.0));
        }
        assert!(wind(0.0, 180.0, 0.0).1.is_sign_positive());
    }

    #[test]
    fn a_hole_in_any_input_is_a_hole_in_both_outputs() {
        let answer = Table::new()
            .column::<f64>("wind_speed_mph", [None, Some(10.0), Some(10.0), Some(10.0)])
            .column::<f64>("wind_dir_deg", [Some(0.0), None, Some(0.0), Some(0.0)])
            .column::<f64>("runway_heading_deg", [Some(0.0), Some(0.0), None, Some(0.0)])
            .run::<Transform>()
            .unwrap();
        assert_eq!(answer.column::<f64>("crosswind_mph").unwrap(), [None, None, None, Some(0.0)]);
        assert_eq!(answer.column::<f64>("headwind_mph").unwrap(), [None, None, None, Some(10.0)]);
    }
}
