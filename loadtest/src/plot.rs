//! Line plots as SVG, by hand: enough for a curve over a logarithmic axis, and readable as text.

use std::fmt::Write;

/// A line with its points (x, y).
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) color: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Pixels.
const PANEL_WIDTH: f64 = 360.0;
const PANEL_HEIGHT: f64 = 220.0;
const MARGIN_LEFT: f64 = 52.0;
const MARGIN_TOP: f64 = 34.0;
const MARGIN_BOTTOM: f64 = 40.0;
const GAP: f64 = 24.0;
/// Lines of the grid on a linear axis.
const STEPS: u32 = 5;

/// Two plots beside each other: from 0 to 100 on the left, logarithmic on the right.
pub(crate) fn two_panels(x_name: &str, percent: &[Line], log: &[Line]) -> String {
    let width = 2.0 * (MARGIN_LEFT + PANEL_WIDTH) + 2.0 * GAP;
    let height = MARGIN_TOP + PANEL_HEIGHT + MARGIN_BOTTOM;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let linear = |y: f64| y / 100.0;
    let ticks = (0..=STEPS).map(|n| f64::from(n) * 100.0 / f64::from(STEPS)).collect();
    panel(&mut out, MARGIN_LEFT, x_name, percent, ticks, &linear);
    let (least, most) = decades(log.iter().flat_map(|l| &l.points).map(|(_, y)| y.max(1.0)));
    let logarithmic = |y: f64| (y.max(1.0).log10() - least) / (most - least);
    let ticks = (least as i32..=most as i32).map(|n| 10f64.powi(n)).collect();
    panel(&mut out, 2.0 * MARGIN_LEFT + PANEL_WIDTH + GAP, x_name, log, ticks, &logarithmic);
    out + "</svg>\n"
}

/// The whole decades around the values, as exponents of ten; at least one.
fn decades(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let least = values.clone().fold(f64::INFINITY, f64::min).log10().floor();
    let most = values.fold(0.0, f64::max).log10().ceil();
    if least.is_finite() { (least, most.max(least + 1.0)) } else { (0.0, 1.0) }
}

fn panel(out: &mut String, left: f64, x_name: &str, lines: &[Line], ticks: Vec<f64>, up: &dyn Fn(f64) -> f64) {
    let xs = lines.iter().flat_map(|l| &l.points).map(|(x, _)| *x);
    let (least, most) = decades(xs.clone());
    let x = |value: f64| left + PANEL_WIDTH * (value.log10() - least) / (most - least);
    let y = |value: f64| MARGIN_TOP + PANEL_HEIGHT * (1.0 - up(value));
    let bottom = MARGIN_TOP + PANEL_HEIGHT;
    for tick in ticks {
        let (at, right) = (y(tick), left + PANEL_WIDTH);
        let _ = writeln!(out, "<path d=\"M{left:.0} {at:.1}H{right:.0}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>", left - 6.0, at + 4.0);
    }
    let first: Vec<f64> = lines.first().map(|l| l.points.iter().map(|(x, _)| *x).collect()).unwrap_or_default();
    for value in first {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{value}</text>",
            x(value),
            bottom + 16.0
        );
    }
    let middle = left + PANEL_WIDTH / 2.0;
    let _ = writeln!(out, "<text x=\"{middle:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{x_name}</text>", bottom + 32.0);
    for (index, line) in lines.iter().enumerate() {
        let points: Vec<String> = line.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        let color = line.color;
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for point in &points {
            let (px, py) = point.split_once(',').unwrap_or_default();
            let _ = writeln!(out, "<circle cx=\"{px}\" cy=\"{py}\" r=\"3\" fill=\"{color}\"/>");
        }
        let at = left + 130.0 * index as f64;
        let _ =
            writeln!(out, "<text x=\"{at:.0}\" y=\"{:.0}\" fill=\"{color}\">{}</text>", MARGIN_TOP - 12.0, line.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_their_values_are() {
        let line = |points| [Line { name: "n", color: "#000", points }];
        let svg = two_panels("x", &line(vec![(10.0, 0.0), (100.0, 100.0)]), &line(vec![(10.0, 1.0), (100.0, 1_000.0)]));
        let right = 2.0 * MARGIN_LEFT + PANEL_WIDTH + GAP;
        for (left, from, to) in [(MARGIN_LEFT, 254.0, 34.0), (right, 254.0, 34.0)] {
            let wanted = format!("points=\"{left:.1},{from:.1} {:.1},{to:.1}\"", left + PANEL_WIDTH);
            assert!(svg.contains(&wanted), "{wanted}: {svg}");
        }
    }
}
