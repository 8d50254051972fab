//! Data from Google's storage and from web servers: the same bytes as from files, and what can't be done is said.

use std::fs;

use crds::contract::{Cause, env};
use libtest_mimic::Failed;
use serde_json::json;
use tests::storage::{GoogleServer, WebServer};

use crate::bench::{Bench, check, training};
use crate::formats::{PER_CLASS, rows, write_tar};

/// Images, a table and tar files below the bucket's folder, which other servers serve as well.
fn bench() -> Result<Bench, Failed> {
    let bench = Bench::new()?;
    bench.draw(&bench.object("images"), PER_CLASS)?;
    let rows = rows();
    let csv: String = rows.iter().map(|(path, class)| format!("{path},{class}\n")).collect();
    fs::write(bench.object("a.csv"), format!("image,label\n{csv}"))?;
    for (number, part) in rows.chunks(6).enumerate() {
        write_tar(&bench, &bench.object(&format!("a-{number:02}.tar")), part)?;
    }
    Ok(bench)
}

/// Trains one epoch from a URI; the weights, and where they lie.
fn train(bench: &Bench, name: &str, data: &str, environment: &[(&str, &str)]) -> Result<Vec<u8>, Failed> {
    let mut spec = training(data, &bench.file_uri(name));
    spec["data"]["validation"]["fraction"] = json!(0.0);
    spec["training"]["epochs"] = json!(1);
    spec["infrastructure"]["processesPerNode"] = json!(1);
    bench.start_with("TrainingJob", name, &spec, 1, environment)?.succeed()?;
    Ok(fs::read(bench.path(name).join("model.safetensors"))?)
}

/// Folders, tables, tar files and models in a bucket of Google's.
pub(crate) fn google() -> Result<(), Failed> {
    let bench = bench()?;
    let files = train(&bench, "files", &format!("file://{}", bench.object("images").display()), &[])?;
    // A server takes what is there when it starts.
    fs::create_dir_all(bench.object("models"))?;
    fs::rename(bench.path("files"), bench.object("models/first"))?;
    let buckets = bench.object("").parent().ok_or("a bucket in a folder")?.to_owned();
    let server = GoogleServer::start(&buckets)?;
    let environment = server.environment();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (name, data) in [("folder", "images"), ("table", "a.csv"), ("tar", "a-{00..02}.tar")] {
        let weights = train(&bench, name, &format!("gs://yard/{data}"), &environment)?;
        check(weights == files, || format!("{name}: other weights than from files"))?;
    }
    let mut spec = training("gs://yard/images", &bench.file_uri("again"));
    spec["model"] = json!({"initialWeights": {"uri": "gs://yard/models/first"}});
    spec["training"]["epochs"] = json!(1);
    bench.start_with("TrainingJob", "again", &spec, 1, &environment)?.succeed()?;

    let missing = training("gs://yard/nowhere", &bench.file_uri("missing"));
    bench
        .start_with("TrainingJob", "missing", &missing, 1, &environment)?
        .fail(Cause::DataMissing, "gs://yard/nowhere")?;
    let mut open = environment.clone();
    open.retain(|(name, _)| *name != "GOOGLE_ALLOW_HTTP");
    bench.start_with("TrainingJob", "open", &spec, 1, &open)?.fail(Cause::BadSpec, "GOOGLE_ALLOW_HTTP")?;
    Ok(())
}

/// Tables, tar files and weights on a web server. It lists no folders.
pub(crate) fn web() -> Result<(), Failed> {
    let bench = bench()?;
    let files = train(&bench, "files", &format!("file://{}", bench.object("images").display()), &[])?;
    let weights = "files/model.safetensors";
    fs::copy(bench.path(weights), bench.object("first.safetensors"))?;
    let server = WebServer::start(&bench.object(""))?;
    let environment = server.environment();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (name, data) in [("table", "a.csv"), ("tar", "a-{00..02}.tar")] {
        let weights = train(&bench, name, &server.uri(data), &environment)?;
        check(weights == files, || format!("{name}: other weights than from files"))?;
    }
    let mut spec = training(&server.uri("a.csv"), &bench.file_uri("again"));
    spec["model"] = json!({"initialWeights": {"uri": server.uri("first.safetensors")}});
    spec["training"]["epochs"] = json!(1);
    bench.start_with("TrainingJob", "again", &spec, 1, &environment)?.succeed()?;

    let retries = (env::STORAGE_RETRY_SECONDS, "1");
    let table = [
        ("folder", "images", environment.clone(), Cause::BadData, "a web server lists no folders"),
        ("missing", "nowhere.csv", environment.clone(), Cause::DataMissing, "nowhere.csv"),
        ("query", "a.csv?token=b", environment, Cause::BadSpec, "?token=b"),
        ("stranger", "a.csv", vec![retries], Cause::Storage, "certificate"),
    ];
    for (name, data, environment, cause, says) in table {
        let mut spec = training(&server.uri(data), &bench.file_uri(name));
        if data.starts_with("a.csv") {
            // What comes after the path hides the ending.
            spec["data"]["format"] = json!("Csv");
        }
        bench.start_with("TrainingJob", name, &spec, 1, &environment)?.fail(cause, says)?;
    }
    Ok(())
}
