//! What a gateway says of itself on its admin address: its counters, read before, during and after a run.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::http1;

/// Values by name and labels, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the page of the gateway with this admin address.
    pub(crate) async fn read(admin: SocketAddr) -> Result<Self, crate::Failed> {
        Ok(Self::parse(std::str::from_utf8(&http1::get(admin, "/metrics").await?)?))
    }

    fn parse(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let values = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(values.collect())
    }

    /// Sum of a metric over its labels; 0 when there is none of that name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// Sums of a metric by one of its labels.
    pub(crate) fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.of(name) {
            let start = labels.find(&format!("{label}=\"")).map(|at| at + label.len() + 2);
            if let Some(text) = start.and_then(|at| labels[at..].split('"').next()) {
                *sums.entry(text.to_owned()).or_default() += value;
            }
        }
        sums
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let from = self.0.range(name.to_owned()..).take_while(move |(n, _)| n.starts_with(name));
        let exact = from.filter_map(move |(n, v)| Some((n.strip_prefix(name)?, *v)));
        exact.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
    }

    /// How much has been counted since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let value = |name: &String| before.0.get(name).copied().unwrap_or(0.0);
        Self(self.0.iter().map(|(name, now)| (name.clone(), now - value(name))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_one_metric_and_differences_of_two_moments() {
        let page = |n| {
            format!(
                "# TYPE weir_values counter\nweir_values_total{{service=\"a\",provenance=\"STORE\"}} {n}\n\
                 weir_values_total{{service=\"b\",provenance=\"STORE\"}} 2\nweir_values_total_other 9\nweir_in_flight 1\n"
            )
        };
        let (before, after) = (Metrics::parse(&page(3)), Metrics::parse(&page(10)));
        assert_eq!(
            (after.sum("weir_values_total"), after.sum("weir_in_flight"), after.sum("nothing")),
            (12.0, 1.0, 0.0)
        );
        assert_eq!(after.since(&before).by("weir_values_total", "provenance")["STORE"], 7.0);
    }
}
