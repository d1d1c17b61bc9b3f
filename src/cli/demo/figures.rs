//! Counts out of the service's own metrics, the same that an operator's dashboard would read.

use crate::telemetry::Metrics;

/// The metrics at one moment.
#[derive(Default)]
pub(super) struct Figures(String);

impl Figures {
    pub(super) fn of(metrics: &Metrics) -> Self {
        Self(metrics.render())
    }

    /// The sum over all series of a metric whose labels hold all of `with`, such as `result="ok"`.
    pub(super) fn sum(&self, name: &str, with: &[&str]) -> u64 {
        let values = self.0.lines().filter_map(|line| {
            let (series, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let is_it = series.is_empty() || series.starts_with('{');
            (is_it && with.iter().all(|label| series.contains(label))).then(|| value.parse::<u64>().ok())?
        });
        values.fold(0, u64::saturating_add)
    }

    pub(super) fn accepted(&self) -> u64 {
        self.sum("soloist_events_accepted_total", &[])
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.sum("soloist_events_duplicate_total", &[])
    }

    /// Login events that are done with.
    pub(super) fn settled(&self) -> u64 {
        self.sum("soloist_login_to_settled_seconds_count", &[])
    }

    pub(super) fn calls(&self) -> u64 {
        self.sum("soloist_provider_calls_total", &[])
    }

    /// Calls of one operation: `list`, `revoke`.
    pub(super) fn calls_to(&self, operation: &str) -> u64 {
        self.sum("soloist_provider_calls_total", &[&format!("operation=\"{operation}\"")])
    }

    pub(super) fn calls_ok(&self) -> u64 {
        self.sum("soloist_provider_calls_total", &["result=\"ok\""])
    }

    pub(super) fn ended(&self) -> u64 {
        self.sum("soloist_sessions_revoked_total", &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_metric_are_added_up_by_label() {
        let text =
            "# TYPE a counter\na_total{x=\"1\",r=\"ok\"} 2\na_total{x=\"2\",r=\"no\"} 3\na_total_more 9\nb_total 4\n";
        let figures = Figures(text.to_owned());
        assert_eq!(figures.sum("a_total", &[]), 5);
        assert_eq!(figures.sum("a_total", &["r=\"ok\""]), 2);
        assert_eq!((figures.sum("b_total", &[]), figures.sum("c_total", &[])), (4, 0));
    }
}
