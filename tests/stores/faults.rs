//! What a store refuses or lacks, as the job that meets it says it.

use std::fs;

use crds::contract::{Cause, env};
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::bench::{Bench, check, s3, scoring, training, uri};
use crate::store::Store;

/// What is wrong with the environment: its name, variables, the cause, and what message and hint say.
type Wrong = (&'static str, &'static [(&'static str, &'static str)], Cause, &'static str, &'static str);

const SOON: (&str, &str) = (env::STORAGE_RETRY_SECONDS, "1");

/// Each store's own ways of being refused. Without a credential a store is asked for by the machine's metadata server.
fn wrong_environments(scheme: &str) -> &'static [Wrong] {
    use Cause::{BadSpec, Permission, Storage};
    match scheme {
        "s3" => &[
            ("wrong key", &[("AWS_ACCESS_KEY_ID", "nobody")], Permission, "no permission", "AWS_ACCESS_KEY_ID"),
            ("wrong secret", &[("AWS_SECRET_ACCESS_KEY", "wrong")], Permission, "no permission", "AWS_ACCESS_KEY_ID"),
            (
                "no key",
                &[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), SOON],
                Permission,
                "no permission",
                "AWS_ACCESS_KEY_ID",
            ),
            ("half a key", &[("AWS_ACCESS_KEY_ID", "")], BadSpec, "AccessKeyId", "AWS_*"),
            ("no TLS", &[("AWS_ALLOW_HTTP", "")], BadSpec, "AWS_ALLOW_HTTP", "AWS_*"),
            ("no server", &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), SOON], Storage, "refused", "AWS_ENDPOINT_URL"),
        ],
        "gs" => &[
            (
                "wrong token",
                &[("GOOGLE_BEARER_TOKEN", "wrong")],
                Permission,
                "no permission",
                "GOOGLE_SERVICE_ACCOUNT_KEY",
            ),
            ("no key", &[("GCE_METADATA_HOST", ""), SOON], Permission, "no permission", "GOOGLE_SERVICE_ACCOUNT_KEY"),
            ("no JSON", &[("GOOGLE_SERVICE_ACCOUNT_KEY", "wrong")], BadSpec, "can't be opened", "GOOGLE_*"),
            ("no TLS", &[("GOOGLE_ALLOW_HTTP", "")], BadSpec, "GOOGLE_ALLOW_HTTP", "GOOGLE_*"),
            ("no server", &[("GOOGLE_BASE_URL", "http://127.0.0.1:1"), SOON], Storage, "refused", "can be reached"),
        ],
        _ => &[
            (
                "wrong key",
                &[("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")],
                Permission,
                "no permission",
                "AZURE_STORAGE_ACCOUNT_KEY",
            ),
            (
                "no key",
                &[("AZURE_STORAGE_ACCOUNT_KEY", ""), SOON],
                Permission,
                "no permission",
                "AZURE_STORAGE_ACCOUNT_KEY",
            ),
            ("no base64", &[("AZURE_STORAGE_ACCOUNT_KEY", "?")], BadSpec, "can't be opened", "AZURE_*"),
            ("no account", &[("AZURE_STORAGE_ACCOUNT_NAME", "")], BadSpec, "Account", "AZURE_STORAGE_ACCOUNT_NAME"),
            ("no TLS", &[("AZURE_ALLOW_HTTP", "")], BadSpec, "AZURE_ALLOW_HTTP", "AZURE_*"),
            (
                "no server",
                &[("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1/account"), SOON],
                Storage,
                "refused",
                "AZURE_STORAGE_ENDPOINT",
            ),
        ],
    }
}

/// Each ends with its cause, names what it is about and what was wrong, and says what to do.
pub(crate) fn said_with_their_cause<S: Store>() -> Result<(), Failed> {
    let bench = Bench::<S>::on()?;
    bench.draw_there("images", 4)?;
    let images = bench.uri("images");
    let elsewhere = |name: &str| format!("{}://no-such-bucket/{name}", S::SCHEME);
    let run = |name: &str, mut spec: Value, environment: &[(&str, &str)], cause, says: [&str; 3]| {
        spec["infrastructure"]["processesPerNode"] = json!(1);
        let ended = bench.start_with("TrainingJob", name, &spec, 1, environment)?.fail(cause, says[0]);
        let message = ended.map_err(|error| format!("{name}: {}", error.message().unwrap_or_default()))?;
        check(message.message.contains(says[1]), || format!("{name}: not {:?}: {message:?}", says[1]))?;
        check(message.hint.contains(says[2]), || format!("{name}: the hint has no {:?}: {message:?}", says[2]))
    };
    let missing = [
        ("no bucket", training(&elsewhere("images"), &bench.file_uri("output")), elsewhere("images")),
        ("no folder", training(&bench.uri("nowhere"), &bench.file_uri("output")), bench.uri("nowhere")),
        ("no table", training(&bench.uri("nowhere.csv"), &bench.file_uri("output")), bench.uri("nowhere.csv")),
        ("no output bucket", training(&images, &elsewhere("model")), elsewhere("model")),
    ];
    for (name, spec, what) in missing {
        run(name, spec, &[], Cause::DataMissing, [&what, "nothing is there", "bucket or container"])?;
    }
    for (name, environment, cause, says, hint) in wrong_environments(S::SCHEME) {
        let spec = training(&images, &bench.file_uri("output"));
        run(name, spec, environment, *cause, [&images, says, hint])?;
    }
    let spec = scoring(&bench.uri("no-model"), &images, &bench.uri("scores"));
    let model = uri(S::SCHEME, "no-model/model.json");
    bench.start("ScoringJob", "no model", &spec, 1)?.fail(Cause::DataMissing, &model).map(drop)
}

/// A table names an image that is not there.
pub(crate) fn a_row_without_an_image() -> Result<(), Failed> {
    let bench = Bench::new()?;
    bench.draw(&bench.object("images"), 4)?;
    fs::write(bench.object("table.csv"), "image,label\nimages/left/000.png,left\nimages/right/999.png,right\n")?;
    let mut spec = training(&s3("table.csv"), &bench.file_uri("output"));
    spec["infrastructure"]["processesPerNode"] = json!(1);
    let says = "table.csv, line 3: s3://yard/images/right/999.png";
    bench.start("TrainingJob", "a row", &spec, 1)?.fail(Cause::BadData, says).map(drop)
}
