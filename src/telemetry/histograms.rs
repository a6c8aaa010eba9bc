//! Histograms that count at once: a value costs two additions, and keeps no memory.
//!
//! The exporter's own keep every value with the moment at which it came, until they are tidied. What is told of these is in
//! the exporter's words, behind what it says of all else.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use metrics_exporter_prometheus::formatting::{sanitize_label_value, write_help_line, write_type_line};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

use crate::workers::WorkerId;

const NANOSECONDS: f64 = 1e9;

/// More threads than these share some: a power of two.
const PARTS: usize = 8;

/// The exporter's recorder for all but histograms.
pub(crate) struct Recorder {
    others: PrometheusRecorder,
    families: Arc<Families>,
}

/// What there is to be told, to whoever scrapes.
#[derive(Clone)]
pub struct Exposition {
    others: PrometheusHandle,
    families: Arc<Families>,
}

/// All histograms.
struct Families(Mutex<Vec<Family>>);

/// Those of one name.
struct Family {
    name: &'static str,
    bounds: &'static [f64],
    help: SharedString,
    /// By their labels, as they are told.
    series: Vec<(String, Arc<Buckets>)>,
}

/// One histogram of seconds.
struct Buckets {
    bounds: &'static [f64],
    /// What there is, is the sum of these: threads that serve clients do not write to the same memory.
    parts: [Part; PARTS],
}

/// What some threads have counted.
struct Part {
    /// One for each bound, and one for what is beyond.
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Recorder {
    /// `bounds`: all histograms that there are, and the upper ends of their buckets in seconds.
    pub(crate) fn new(others: PrometheusRecorder, bounds: &[(&'static str, &'static [f64])]) -> Self {
        let family = |&(name, bounds): &(&'static str, &'static [f64])| Family {
            name,
            bounds,
            help: "".into(),
            series: Vec::new(),
        };
        Self { others, families: Arc::new(Families(Mutex::new(bounds.iter().map(family).collect()))) }
    }

    pub(crate) fn exposition(&self) -> Exposition {
        Exposition { others: self.others.handle(), families: Arc::clone(&self.families) }
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.others.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.others.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        if let Some(family) = self.families.lock().iter_mut().find(|family| family.name == key.as_str()) {
            family.help = description;
        }
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.others.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.others.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut families = self.families.lock();
        let family = families.iter_mut().find(|family| family.name == key.name());
        family.map_or_else(Histogram::noop, |family| Histogram::from_arc(family.of(labels(key))))
    }
}

impl Exposition {
    /// All of it, in Prometheus's text format.
    pub fn render(&self) -> String {
        let mut text = self.others.render();
        for family in self.families.lock().iter().filter(|family| !family.series.is_empty()) {
            family.render(&mut text);
        }
        text
    }
}

impl Families {
    fn lock(&self) -> MutexGuard<'_, Vec<Family>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Family {
    fn of(&mut self, labels: String) -> Arc<Buckets> {
        if let Some((_, known)) = self.series.iter().find(|(known, _)| *known == labels) {
            return Arc::clone(known);
        }
        let buckets = Arc::new(Buckets::new(self.bounds));
        self.series.push((labels, Arc::clone(&buckets)));
        buckets
    }

    fn render(&self, text: &mut String) {
        let name = self.name;
        write_help_line(text, name, None, None, &self.help);
        write_type_line(text, name, None, None, "histogram");
        for (labels, buckets) in &self.series {
            let comma = if labels.is_empty() { "" } else { "," };
            let mut count = 0;
            let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            for (bucket, bound) in bounds.enumerate() {
                count += buckets.count(bucket);
                let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
            }
            let in_braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let _ = writeln!(text, "{name}_sum{in_braces} {}", buckets.seconds());
            let _ = writeln!(text, "{name}_count{in_braces} {count}");
        }
        text.push('\n');
    }
}

/// As they stand between a series' braces.
fn labels(key: &Key) -> String {
    let label = |label: &metrics::Label| format!("{}=\"{}\"", label.key(), sanitize_label_value(label.value()));
    key.labels().map(label).collect::<Vec<_>>().join(",")
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        let part = |_| Part {
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanoseconds: AtomicU64::new(0),
        };
        Self { bounds, parts: std::array::from_fn(part) }
    }

    fn count(&self, bucket: usize) -> u64 {
        self.parts.iter().map(|part| part.counts[bucket].load(Ordering::Relaxed)).sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "nanoseconds beyond 2^53 are 104 days")]
    fn seconds(&self) -> f64 {
        self.parts.iter().map(|part| part.nanoseconds.load(Ordering::Relaxed)).sum::<u64>() as f64 / NANOSECONDS
    }
}

impl HistogramFn for Buckets {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no duration is negative, nor 584 years"
    )]
    fn record(&self, seconds: f64) {
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        let part = &self.parts[WorkerId::here().one_of(PARTS)];
        part.counts[bucket].fetch_add(1, Ordering::Relaxed);
        part.nanoseconds.fetch_add((seconds * NANOSECONDS) as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    const BOUNDS: &[(&str, &[f64])] = &[("ours", &[0.000_5, 1.0, 2.5])];

    /// What is told after this.
    fn told(work: impl FnOnce()) -> String {
        let recorder = Recorder::new(PrometheusBuilder::new().build_recorder(), BOUNDS);
        metrics::with_local_recorder(&recorder, work);
        recorder.exposition().render()
    }

    #[test]
    fn it_is_told_as_the_exporter_tells() {
        let work = || {
            metrics::describe_histogram!("ours", "How long\nit took");
            metrics::counter!("another").increment(7);
            for value in [0.0, 0.000_5, 0.000_6, 2.0, 3.0] {
                metrics::histogram!("ours", "a" => "x \"quoted\"", "b" => "y").record(value);
            }
            metrics::histogram!("ours").record(1.25);
        };
        let theirs = PrometheusBuilder::new().set_buckets(BOUNDS[0].1).unwrap().build_recorder();
        metrics::with_local_recorder(&theirs, work);
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        let ours = told(work);
        assert_eq!(sorted(&ours), sorted(&theirs.handle().render()), "{ours}");
        assert!(ours.contains("ours_bucket{a=\"x \\\"quoted\\\"\",b=\"y\",le=\"1\"} 3\n"), "{ours}");
    }

    #[test]
    fn what_was_not_registered_is_not_told() {
        assert!(!told(|| metrics::describe_histogram!("ours", "x")).contains("ours"));
        assert!(told(|| drop(metrics::histogram!("ours"))).contains("ours_count 0"));
    }
}
