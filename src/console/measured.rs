//! Requests as metrics.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    middleware::Next,
    response::Response,
};
use prometheus::IntGauge;

use crate::ops::metrics::Metrics;

/// The route, or the method, of whatever is none of ours. A caller can't make series of their own.
const OTHER: &str = "other";

/// Counts a request once its answer begins.
pub async fn measure(metrics: &Metrics, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(OTHER, MatchedPath::as_str);
    let method = method(request.method());
    let response = next.run(request).await;
    let status = response.status();
    metrics.http_requests.with_label_values(&[route, method, status.as_str()]).inc();
    metrics.http_duration.with_label_values(&[route]).observe(begun.elapsed().as_secs_f64());
    response
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}

/// Something that is open as long as this lives.
pub struct Open(IntGauge);

impl Open {
    /// It opens.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_nobody_knows_makes_no_series_of_its_own() {
        let strange = Method::from_bytes(b"BREW").unwrap();
        assert_eq!((method(&strange), method(&Method::TRACE), method(&Method::GET)), (OTHER, OTHER, "GET"));
    }
}
