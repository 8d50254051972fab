//! What may go wrong with a control plane: ports that are taken, an API server that dies, tests that are killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tests::cluster::{Cluster, PATIENCE, Ports, Settings};

/// What the test that is killed writes before the folder of its control plane.
const FOLDER: &str = "folder of the control plane: ";

#[tokio::test]
async fn a_restarted_api_server_has_its_data_and_taken_ports_are_left_alone() {
    let taken = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let [etcd, apiserver] = taken.each_ref().map(|listener| listener.local_addr().unwrap().port());
    let settings = Settings { ports: Some(Ports { etcd, apiserver }), ..Settings::default() };
    let cluster = Cluster::start_with(&settings).await.unwrap();
    let folder = cluster.folder().to_owned();
    {
        let namespace = cluster.namespace("kept").await;
        namespace.create::<ConfigMap>(json!({"metadata": {"name": "kept"}, "data": {"key": "value"}})).await;
        cluster.kill_apiserver();
        let client = cluster.client().await;
        let dead = tokio::time::timeout(Duration::from_millis(500), client.apiserver_version()).await;
        assert!(!matches!(dead, Ok(Ok(_))), "the API server answers after it was killed");
        cluster.start_apiserver().await;
        let kept = namespace.api::<ConfigMap>().get("kept").await.unwrap();
        assert_eq!(kept.data.unwrap()["key"], "value");
        // The controllers go on too: a namespace gets its service account from one.
        cluster.namespace("next").await;
    }
    assert!(!users_of(&folder).is_empty());
    drop(cluster);
    assert!(users_of(&folder).is_empty() && !folder.exists());
}

/// Processes that work in a folder, or have it in their command line.
fn users_of(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let used = |process: PathBuf| {
        let line = fs::read(process.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        // A folder that is gone is "... (deleted)" here, hence as text.
        let works_there = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.to_string_lossy().starts_with(name));
        (works_there || line.contains(name)).then_some(line)
    };
    fs::read_dir("/proc").unwrap().filter_map(|entry| used(entry.ok()?.path())).collect()
}

/// A child that is killed at the end of its test, if not before.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: it is killed by the next one.
#[tokio::test]
#[ignore = "runs until it is killed"]
async fn until_killed() {
    let cluster = Cluster::shared().await;
    println!("{FOLDER}{}", cluster.folder().display());
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_test_leaves_nothing_behind() {
    let itself = std::env::current_exe().unwrap();
    let mut child = Command::new(itself)
        .args(["--exact", "faults::until_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let folder = lines.map_while(Result::ok).find_map(|line| Some(PathBuf::from(line.split_once(FOLDER)?.1)));
    let folder = folder.expect("the child starts no control plane");
    assert!(users_of(&folder).len() >= 5, "{:#?}", users_of(&folder));
    drop(child);
    let began = Instant::now();
    while !users_of(&folder).is_empty() || folder.exists() {
        assert!(began.elapsed() < PATIENCE, "{} is there, used by {:#?}", folder.display(), users_of(&folder));
        std::thread::sleep(Duration::from_millis(20));
    }
}
