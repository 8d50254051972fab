//! Exit codes, statuses and URIs.

use crds::contract::{Cause, DIAGNOSTIC_BYTES, Diagnostic, Progress, TerminationMessage};
use crds::status::{ATTEMPTS_KEPT, AttemptRecord, MESSAGE_BYTES, bounded, push_attempt};
use crds::uri::{Scheme, Uri};

#[test]
fn every_cause_has_its_code_and_says_whether_another_attempt_is_worth_it() {
    // code, cause, worth another attempt, counts against backoffLimit
    let table = [
        (0, Cause::Completed, false, false),
        (1, Cause::OtherPermanent, false, true),
        (64, Cause::BadSpec, false, true),
        (65, Cause::BadData, false, true),
        (66, Cause::DataMissing, false, true),
        (69, Cause::GpuUnsupported, true, true),
        (70, Cause::Bug, false, true),
        (71, Cause::HostMemory, false, true),
        (72, Cause::GpuMemory, false, true),
        (73, Cause::NotFinite, false, true),
        (77, Cause::Permission, false, true),
        (127, Cause::OtherPermanent, false, true),
        (128, Cause::OtherRetryable, true, true),
        (137, Cause::OtherRetryable, true, true),
        (143, Cause::Preempted, true, false),
        (160, Cause::NodeFault, true, true),
        (161, Cause::PeerLost, true, true),
        (162, Cause::Storage, true, true),
        (255, Cause::OtherRetryable, true, true),
    ];
    for (code, cause, retryable, costs) in table {
        let found = Cause::from_exit_code(code);
        assert_eq!((found, found.is_retryable(), found.costs_budget()), (cause, retryable, costs), "exit code {code}");
    }
    for (code, cause) in Cause::CODES {
        assert_eq!(cause.exit_code(), code);
    }
}

#[test]
fn a_diagnostic_is_cut_to_its_bound_at_a_character() {
    assert_eq!(Diagnostic::new("balance", "few owls"), Diagnostic { check: "balance".into(), text: "few owls".into() });
    let long = Diagnostic::new("images", &"é".repeat(1000)).text;
    assert!(long.len() <= DIAGNOSTIC_BYTES && long.len() > DIAGNOSTIC_BYTES - 4 && long.ends_with("é…"), "{long}");
}

fn attempt(number: u32) -> AttemptRecord {
    AttemptRecord {
        number,
        shard: None,
        start: None,
        end: None,
        cause: Cause::PeerLost,
        exit_code: Some(161),
        node: None,
        rank: None,
        step: None,
        message: String::new(),
    }
}

#[test]
fn a_status_keeps_the_first_attempt_and_the_last_nine() {
    let mut attempts = Vec::new();
    for number in 1..=30 {
        push_attempt(&mut attempts, attempt(number));
        // Seen twice, it counts once.
        push_attempt(&mut attempts, attempt(number));
    }
    let numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
    assert_eq!(attempts.len(), ATTEMPTS_KEPT);
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    assert_eq!(bounded("short"), "short");
    let cut = bounded(&"ä".repeat(MESSAGE_BYTES));
    assert!(cut.len() <= MESSAGE_BYTES && cut.ends_with("ä…"), "{} bytes", cut.len());
}

#[test]
fn uris_have_a_scheme_an_authority_and_a_path() {
    let table = [
        ("file:///data/my photos", Scheme::File, "", "/data/my photos"),
        ("file:///", Scheme::File, "", "/"),
        ("pvc://models/digits", Scheme::Pvc, "models", "/digits"),
        ("pvc://models", Scheme::Pvc, "models", ""),
        ("s3://my_bucket.eu/a/..b/c/", Scheme::S3, "my_bucket.eu", "/a/..b/c/"),
        ("gs://bucket/a", Scheme::Gs, "bucket", "/a"),
        ("az://container/a", Scheme::Az, "container", "/a"),
        ("https://host.example:8443/a?token=b", Scheme::Https, "host.example:8443", "/a?token=b"),
    ];
    for (text, scheme, authority, path) in table {
        let uri = Uri::parse(text).unwrap();
        assert_eq!((uri.scheme(), uri.authority(), uri.path()), (scheme, authority, path), "{text}");
        assert_eq!(uri.to_string(), text);
    }
    assert_eq!(
        Uri::parse("pvc://models/a/").unwrap().join("checkpoints/3").unwrap().to_string(),
        "pvc://models/a/checkpoints/3"
    );
}

#[test]
fn what_is_no_uri_says_why() {
    let table = [
        ("data/digits", "is not a URI"),
        ("/data/digits", "is not a URI"),
        ("ftp://host/a", "unknown scheme"),
        ("file://data/digits", "no absolute path"),
        ("pvc:///digits", "names no claim"),
        ("pvc://Models/digits", "names no claim"),
        ("s3:///digits", "names no bucket"),
        ("https://:80/a", "names no host"),
        ("https://host:port/a", "names no host"),
        ("file:///data/../etc", "path segment \"..\""),
        ("file:///data/./etc", "path segment \".\""),
        ("pvc://models//a", "path segment \"\""),
        ("pvc://models/a\nb", "path segment"),
    ];
    for (text, why) in table {
        let fault = Uri::parse(text).unwrap_err().to_string();
        assert!(fault.contains(why), "{text}: {fault}");
    }
    assert!(Uri::parse("pvc://models/a").unwrap().join("../b").is_err());
    assert!(Uri::parse(&format!("file:///{}", "a".repeat(2048))).is_err());
}

/// The pattern in the schema and the parser are two statements of one thing.
#[cfg(feature = "kube")]
#[test]
fn the_documents_of_an_image_of_one_s_own_are_as_the_guide_shows_them() {
    let guide = include_str!("../GUIDE.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = |before: &str| -> String {
        let (_, rest) = guide.split_once(before).expect(before);
        let (document, _) = rest.split_once("}`").expect("its end");
        format!("{document}}}")
    };
    let ended: TerminationMessage = serde_json::from_str(&shown("its cause if it is `")).unwrap();
    assert_eq!((ended.cause, ended.message.as_str(), ended.step), (Cause::BadData, "no labels", Some(7)));
    let progress: Progress = serde_json::from_str(&shown("/progress` with `")).unwrap();
    assert_eq!((progress.step, progress.total_steps, progress.loss), (7, 900, Some(0.7)));
}

#[test]
fn the_schema_and_the_parser_agree_on_uris() {
    let schema = crds::manifest::schema::<crds::TrainingJob>();
    let pattern = schema["properties"]["spec"]["properties"]["data"]["properties"]["uri"]["pattern"].as_str().unwrap();
    let pattern = regex::Regex::new(pattern).unwrap();
    let pieces = [
        "file", "pvc", "s3", "https", "://", "/", "a", "..", ".", "...", ".a", "a.", "..a", "_", "-", "A", ":8", " ",
        "\n",
    ];
    let mut texts: Vec<String> = vec![String::new()];
    for _ in 0..5 {
        texts = texts.iter().flat_map(|text| pieces.iter().map(move |piece| format!("{text}{piece}"))).collect();
        for text in &texts {
            assert_eq!(pattern.is_match(text), Uri::parse(text).is_ok(), "{text:?}");
        }
        // Only what can still become a URI is worth making longer.
        texts.retain(|text| ["file", "pvc", "s3", "https"].iter().any(|scheme| text.starts_with(scheme)));
        texts.retain(|text| text.len() <= 5 || text.contains("://"));
    }
}
