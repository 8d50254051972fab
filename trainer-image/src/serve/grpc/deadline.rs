//! How long a call may take: as long as its client waits, and no longer than any.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::timeout;
use tonic::Status;

/// The header that says how long the client waits.
const TIMEOUT: &str = "grpc-timeout";

/// Ends a call that takes too long.
pub(super) async fn keep(State(most): State<Duration>, request: Request, next: Next) -> Response {
    let time = given(request.headers()).map_or(most, |given| given.min(most));
    let late = |_| Status::deadline_exceeded(format!("there was no answer within {time:?}")).into_http::<Body>();
    timeout(time, next.run(request)).await.unwrap_or_else(late)
}

/// What the client says: up to eight digits and a unit.
fn given(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tonic::Code;
    use tonic::codegen::Service;

    use super::*;

    #[test]
    fn a_client_says_how_long_it_waits_by_a_number_and_a_unit() {
        let given = |text: &str| given(&HeaderMap::from_iter([(TIMEOUT.parse().unwrap(), text.parse().unwrap())]));
        for (text, time) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("20m", Some(Duration::from_millis(20))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
        ] {
            assert_eq!(given(text), time, "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "1 S"] {
            assert_eq!(given(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_call_ends_when_its_client_waits_no_longer_and_when_all_have_waited_long_enough() {
        let never = get(std::future::pending::<()>);
        for (most, given, told) in [(60_000, "20m", "20ms"), (30, "1H", "30ms")] {
            let layer = axum::middleware::from_fn_with_state(Duration::from_millis(most), keep);
            let mut router: Router = Router::new().route("/", never.clone()).layer(layer);
            let request = Request::builder().uri("/").header(TIMEOUT, given).body(Body::empty()).unwrap();
            let answer = router.call(request).await.unwrap();
            let status = Status::from_header_map(answer.headers()).unwrap();
            let sentence = format!("there was no answer within {told}");
            assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, sentence.as_str()));
        }
    }
}
