//! The kinds of metrics, each made from its name, help and labels or bounds.

use std::{marker::PhantomData, sync::Arc};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, core::Collector,
};

use super::labels::Label;

/// Makes one kind of metric.
pub trait Make: Sized {
    type Shape;

    /// A metric that is not registered yet.
    ///
    /// # Errors
    /// If a name or label is malformed.
    fn make(name: &str, help: &str, shape: Self::Shape) -> prometheus::Result<Self>;

    /// What is registered.
    fn collector(&self) -> Box<dyn Collector>;
}

macro_rules! make {
    ($kind:ty, $shape:ty, |$opts:ident, $given:ident| $new:expr) => {
        // The formatter puts braces around what the macro takes.
        #[allow(unused_braces)]
        impl Make for $kind {
            type Shape = $shape;

            fn make(name: &str, help: &str, $given: $shape) -> prometheus::Result<Self> {
                let $opts = Opts::new(name, help);
                $new
            }

            fn collector(&self) -> Box<dyn Collector> {
                Box::new(self.clone())
            }
        }
    };
}

type Labels = &'static [&'static str];
type Bounds = &'static [f64];

make!(IntCounter, (), |opts, _shape| IntCounter::with_opts(opts));
make!(IntGauge, (), |opts, _shape| IntGauge::with_opts(opts));
make!(Gauge, (), |opts, _shape| Gauge::with_opts(opts));
make!(IntCounterVec, Labels, |opts, labels| { IntCounterVec::new(opts, labels) });
make!(IntGaugeVec, Labels, |opts, labels| { IntGaugeVec::new(opts, labels) });
make!(GaugeVec, Labels, |opts, labels| { GaugeVec::new(opts, labels) });
make!(Histogram, Bounds, |opts, bounds| {
    Histogram::with_opts(HistogramOpts::from(opts).buckets(bounds.to_vec()))
});
make!(HistogramVec, (Labels, Bounds), |opts, shape| HistogramVec::new(
    HistogramOpts::from(opts).buckets(shape.1.to_vec()),
    shape.0
));

/// A metric with labels, of which each series is a metric of its own.
pub trait Family: Make {
    type Series: Clone;

    /// The series of the value of its only label.
    ///
    /// # Errors
    /// If it has another number of labels.
    fn series(&self, value: &str) -> prometheus::Result<Self::Series>;
}

macro_rules! family {
    ($kind:ty, $series:ty) => {
        impl Family for $kind {
            type Series = $series;

            fn series(&self, value: &str) -> prometheus::Result<$series> {
                self.get_metric_with_label_values(&[value])
            }
        }
    };
}

family!(IntCounterVec, IntCounter);
family!(IntGaugeVec, IntGauge);
family!(HistogramVec, Histogram);

/// A metric with one label whose values are all known: each has its series from the start, so that its first rise is seen,
/// and is found without looking the label up.
#[derive(Clone)]
pub struct Each<L, F: Family> {
    all: F,
    /// In the order of the label's values.
    series: Arc<[F::Series]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, F: Family> Each<L, F> {
    /// The series of a value.
    #[must_use]
    pub fn of(&self, value: L) -> &F::Series {
        let at = L::ALL.iter().position(|known| *known == value);
        &self.series[at.expect("`ALL` has every value")]
    }
}

impl<L: Label, F: Family> Make for Each<L, F> {
    type Shape = F::Shape;

    fn make(name: &str, help: &str, shape: F::Shape) -> prometheus::Result<Self> {
        let all = F::make(name, help, shape)?;
        let series: prometheus::Result<Arc<[_]>> =
            L::ALL.iter().map(|value| all.series(value.text())).collect();
        Ok(Self { series: series?, all, label: PhantomData })
    }

    fn collector(&self) -> Box<dyn Collector> {
        self.all.collector()
    }
}
