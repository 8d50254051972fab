//! Data from stores and from web servers: the same bytes as from files, and what can't be done is said.

use std::fs;
use std::path::PathBuf;

use crds::contract::{Cause, env};
use libtest_mimic::Failed;
use serde_json::json;
use tests::storage::WebServer;

use crate::bench::{Bench, check, training};
use crate::formats::{PER_CLASS, rows, write_tar};
use crate::store::Store;

/// Images, a table and tar files in a folder of this machine, which servers serve as well.
fn draw<S: Store>(bench: &Bench<S>) -> Result<PathBuf, Failed> {
    let folder = bench.path("data");
    bench.draw(&folder.join("images"), PER_CLASS)?;
    let rows = rows();
    let csv: String = rows.iter().map(|(path, class)| format!("{path},{class}\n")).collect();
    fs::write(folder.join("a.csv"), format!("image,label\n{csv}"))?;
    for (number, part) in rows.chunks(6).enumerate() {
        write_tar(&folder, &folder.join(format!("a-{number:02}.tar")), part)?;
    }
    Ok(folder)
}

/// Trains one epoch from a URI; the weights, and where they lie.
fn train<S: Store>(bench: &Bench<S>, name: &str, data: &str, environment: &[(&str, &str)]) -> Result<Vec<u8>, Failed> {
    let mut spec = training(data, &bench.file_uri(name));
    spec["data"]["validation"]["fraction"] = json!(0.0);
    spec["training"]["epochs"] = json!(1);
    spec["infrastructure"]["processesPerNode"] = json!(1);
    bench.start_with("TrainingJob", name, &spec, 1, environment)?.succeed()?;
    Ok(fs::read(bench.path(name).join("model.safetensors"))?)
}

/// Folders, tables, tar files and models in a bucket.
pub(crate) fn read<S: Store>() -> Result<(), Failed> {
    let bench = Bench::<S>::on()?;
    let client = bench.client()?;
    let folder = draw(&bench)?;
    client.upload(&folder, "")?;
    let files = train(&bench, "files", &bench.file_uri("data/images"), &[])?;
    client.upload(&bench.path("files"), "models/first")?;
    for (name, data) in [("folder", "images"), ("table", "a.csv"), ("tar", "a-{00..02}.tar")] {
        let weights = train(&bench, name, &bench.uri(data), &[])?;
        check(weights == files, || format!("{name}: other weights than from files"))?;
    }
    let mut spec = training(&bench.uri("images"), &bench.file_uri("again"));
    spec["model"] = json!({"initialWeights": {"uri": bench.uri("models/first")}});
    spec["training"]["epochs"] = json!(1);
    bench.start("TrainingJob", "again", &spec, 1)?.succeed().map(drop)
}

/// Tables, tar files and weights on a web server. It lists no folders.
pub(crate) fn web() -> Result<(), Failed> {
    let bench = Bench::new()?;
    let folder = draw(&bench)?;
    let files = train(&bench, "files", &bench.file_uri("data/images"), &[])?;
    fs::copy(bench.path("files/model.safetensors"), folder.join("first.safetensors"))?;
    let server = WebServer::start(&folder)?;
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
