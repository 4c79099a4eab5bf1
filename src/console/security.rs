//! Headers that every answer has: what a page may load, who may frame it, that nothing is kept.

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};

/// The headers of a deployment.
#[derive(Clone)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// Those where these origins may show the console in a frame.
    pub fn new(frame_ancestors: &[String]) -> Self {
        let framers =
            if frame_ancestors.is_empty() { "'none'".to_owned() } else { frame_ancestors.join(" ") };
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors {framers}"
        );
        let mut headers = vec![
            ("content-security-policy", policy),
            ("x-content-type-options", "nosniff".to_owned()),
            ("referrer-policy", "no-referrer".to_owned()),
            ("cross-origin-opener-policy", "same-origin".to_owned()),
            ("permissions-policy", "camera=(), geolocation=(), microphone=()".to_owned()),
        ];
        if frame_ancestors.is_empty() {
            headers.push(("x-frame-options", "DENY".to_owned()));
        }
        let sound = |(name, value): (&'static str, String)| {
            // Origins are checked when they are read.
            Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
        };
        Self(headers.into_iter().filter_map(sound).collect())
    }
}

/// Adds them to an answer. What may be kept says so itself.
pub async fn add(headers: &Headers, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let answered = response.headers_mut();
    for (name, value) in &headers.0 {
        answered.insert(name.clone(), value.clone());
    }
    let cache = HeaderName::from_static("cache-control");
    answered.entry(cache).or_insert(HeaderValue::from_static("no-store"));
    response
}
