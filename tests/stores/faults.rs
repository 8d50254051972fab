//! What a store refuses or lacks, as the job that meets it says it.

use std::fs;

use crds::contract::{Cause, env};
use libtest_mimic::Failed;
use serde_json::json;

use crate::bench::{Bench, check, s3, scoring, training};

/// Each ends with its cause, names what it is about, and says what to do.
pub(crate) fn said_with_their_cause() -> Result<(), Failed> {
    let bench = Bench::new()?;
    bench.draw(&bench.object("images"), 4)?;
    fs::write(bench.object("table.csv"), "image,label\nimages/left/000.png,left\nimages/right/999.png,right\n")?;
    let images = s3("images");
    let from = |data: &str| training(data, &bench.file_uri("output"));
    let endpoint = ("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    let table = [
        ("no bucket", from("s3://no-such-bucket/images"), vec![], Cause::DataMissing, "s3://no-such-bucket/images"),
        ("no key", from(&s3("nowhere")), vec![], Cause::DataMissing, "s3://yard/nowhere"),
        ("no table", from(&s3("nowhere.csv")), vec![], Cause::DataMissing, "s3://yard/nowhere.csv"),
        (
            "a row without an image",
            from(&s3("table.csv")),
            vec![],
            Cause::BadData,
            "table.csv, line 3: s3://yard/images/right/999.png",
        ),
        ("wrong key", from(&images), vec![("AWS_ACCESS_KEY_ID", "nobody")], Cause::Permission, &images),
        ("wrong secret", from(&images), vec![("AWS_SECRET_ACCESS_KEY", "wrong")], Cause::Permission, &images),
        ("no http", from(&images), vec![("AWS_ALLOW_HTTP", "")], Cause::BadSpec, "AWS_ALLOW_HTTP"),
        ("no server", from(&images), vec![endpoint, (env::STORAGE_RETRY_SECONDS, "1")], Cause::Storage, &images),
        (
            "no output bucket",
            training(&images, "s3://no-such-bucket/model"),
            vec![],
            Cause::DataMissing,
            "no-such-bucket",
        ),
    ];
    for (name, mut spec, environment, cause, says) in table {
        spec["infrastructure"]["processesPerNode"] = json!(1);
        let ended = bench.start_with("TrainingJob", name, &spec, 1, &environment)?.fail(cause, says);
        let message = ended.map_err(|error| format!("{name}: {}", error.message().unwrap_or_default()))?;
        check(!message.hint.is_empty(), || format!("{name}: no hint: {message:?}"))?;
    }
    let spec = scoring(&s3("no-model"), &images, &s3("scores"));
    bench.start("ScoringJob", "no model", &spec, 1)?.fail(Cause::DataMissing, "s3://yard/no-model/model.json")?;
    Ok(())
}
