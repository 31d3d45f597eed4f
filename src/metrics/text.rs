//! Numbers as Prometheus reads them. Never counts.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text as openmetrics};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::{Histogram, Seen};

/// One metric at one moment.
#[derive(Debug)]
pub struct Reading {
    /// Without `optout_relay_` and `_total`.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
    /// What it is, and its values.
    pub kind: Kind,
}

/// Labels with their values, and a number.
pub type Labelled = (Vec<(&'static str, &'static str)>, f64);

/// What a metric is.
#[derive(Debug)]
pub enum Kind {
    /// It only grows.
    Counter(Vec<Labelled>),
    /// It goes up and down.
    Gauge(Vec<Labelled>),
    /// Durations.
    Histogram(Seen),
}

impl Reading {
    /// One number that only grows.
    pub fn counter(name: &'static str, help: &'static str, count: u64) -> Self {
        Self { name, help, kind: Kind::Counter(vec![(Vec::new(), count as f64)]) }
    }

    /// One number that goes up and down.
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self::gauges(name, help, vec![(Vec::new(), value)])
    }

    /// Several of them, by labels.
    pub fn gauges(name: &'static str, help: &'static str, values: Vec<Labelled>) -> Self {
        Self { name, help, kind: Kind::Gauge(values) }
    }

    pub(super) fn histogram(name: &'static str, help: &'static str, histogram: &Histogram) -> Self {
        Self { name, help, kind: Kind::Histogram(histogram.seen()) }
    }
}

/// The forms that programs ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Prometheus text, 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Form {
    /// As the header of a request wants it; what it does not know it is not given.
    pub fn wanted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// As it is called over HTTP.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Everything in one text.
pub fn text(readings: Vec<Reading>, form: Form) -> String {
    let mut registry = Registry::with_prefix("optout_relay");
    registry.register_collector(Box::new(Scrape(readings)));
    let mut text = String::new();
    // A String takes every write.
    let _ = match form {
        Form::Prometheus => prometheus_text::encode(&mut text, &registry),
        Form::OpenMetrics => openmetrics::encode(&mut text, &registry),
    };
    text
}

/// What the encoder asks.
#[derive(Debug)]
struct Scrape(Vec<Reading>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Reading { name, help, kind } in &self.0 {
            let what = match kind {
                Kind::Counter(_) => MetricType::Counter,
                Kind::Gauge(_) => MetricType::Gauge,
                Kind::Histogram(_) => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(name, help, None, what)?;
            match kind {
                // As whole numbers: that is what they are.
                Kind::Counter(values) => {
                    numbers(&mut metric, values, |one, value| one.encode_counter::<NoLabelSet, _, u64>(&(value as u64), None))?;
                }
                Kind::Gauge(values) => numbers(&mut metric, values, |one, value| one.encode_gauge(&value))?,
                Kind::Histogram(Seen { sum, count, classes }) => {
                    metric.encode_histogram::<NoLabelSet>(*sum, *count, classes, None)?;
                }
            }
        }
        Ok(())
    }
}

fn numbers(
    metric: &mut MetricEncoder<'_>,
    values: &[Labelled],
    encode: impl Fn(&mut MetricEncoder<'_>, f64) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in values {
        match labels.is_empty() {
            true => encode(metric, *value)?,
            false => encode(&mut metric.encode_family(labels)?, *value)?,
        }
    }
    Ok(())
}
