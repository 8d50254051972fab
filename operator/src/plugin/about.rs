//! `trainyard version`, `nodes` and `why`: short answers.

use std::path::Path;

use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::{Value, json};

use super::access::{Access, Format};
use super::error::PluginError;
use super::job::all;
use super::operator;
use super::subject::Subject;
use crate::cluster::{self, Judging, OperatorError};
use crate::observe::NodeFacts;
use crate::placement::{self, Catalogue, Table};

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Only this program's: ask no cluster.
    #[arg(long)]
    client: bool,
    /// How to write it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

impl Version {
    /// Prints it; the exit code.
    pub(crate) fn run(&self) -> u8 {
        let ours = env!("CARGO_PKG_VERSION");
        let api = format!("{}/{}", crds::contract::GROUP, crds::contract::VERSION);
        let people = format!("client      {ours}\napi         {api}\n");
        let mut value = json!({"client": ours, "api": api});
        if self.client {
            return self.output.print(&value, || people);
        }
        // What this program knows of itself it tells in any case.
        match self.access.find(async |cluster| Ok(cluster.client.apiserver_version().await?.git_version)) {
            Ok(server) => {
                value["kubernetes"] = json!(server);
                self.output.print(&value, || format!("{people}kubernetes  {server}\n"))
            }
            Err(error) => {
                self.output.print(&value, || people);
                eprintln!("{error}");
                error.exit_code()
            }
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// How to write them.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

impl Nodes {
    /// Prints them; the exit code.
    pub(crate) fn run(&self) -> u8 {
        self.access.with(async |cluster| {
            let nodes = all(&Api::<Node>::all(cluster.client), "").await.map_err(|error| match error {
                PluginError::Forbidden { .. } => {
                    PluginError::Refused(format!("{error}. What is known without it of a job: trainyard why JOB"))
                }
                error => error,
            })?;
            let table = placement::nodes(&nodes.iter().map(NodeFacts::of).collect::<Vec<_>>());
            Ok(self.output.print(&rows(&table), || table.to_string()))
        })
    }
}

/// A table as objects, by the heads of its columns.
fn rows(table: &Table) -> Value {
    let row = |cells: &Vec<String>| {
        let heads = table.head.iter().map(|head| head.to_ascii_lowercase());
        heads.zip(cells.iter().map(|cell| Value::from(cell.as_str()))).collect::<serde_json::Map<_, _>>()
    };
    table.rows.iter().map(|cells| Value::Object(row(cells))).collect()
}

/// By what `why` has judged, where no operator tells what it judges by.
const BUILT_IN: &str = "\nJudged by the runtimes that this version has of itself: no Deployment of an operator for this namespace can be read. If it was given others, give the same by --catalogue\n";

/// Prints why a job or an endpoint is where it is; the exit code. A catalogue that is given goes before the operator's.
pub(crate) fn why(
    access: &Access,
    job: &str,
    output: Format,
    given: impl FnOnce() -> Result<Option<Catalogue>, Box<dyn std::error::Error>>,
) -> u8 {
    access.with(async |cluster| {
        let given = given().map_err(|error| PluginError::Usage(error.to_string()))?;
        let subject = Subject::find(&cluster, job).await?;
        let title = subject.title();
        let operators = operator::of_namespace(&cluster.client, &cluster.namespace).await;
        let autoscaled = operators.as_ref().is_some_and(|operator| operator.autoscaled);
        let (catalogue, note) = match (given, operators) {
            (Some(given), _) => (given, String::new()),
            (None, Some(operator)) => (operator.catalogue, format!("\nJudged as by the operator {}\n", operator.name)),
            (None, None) => (Catalogue::built_in(), BUILT_IN.to_owned()),
        };
        let judging = Judging { catalogue: &catalogue, autoscaled };
        let answer = cluster::why(&cluster.client, Some(&cluster.namespace), &title, judging).await;
        let answer = match answer {
            Ok(answer) => answer + &note,
            Err(OperatorError::Client(error)) => {
                let placement = &subject.value()["status"]["placement"];
                let asked = format!("trainyard why {title} -n {}", cluster.namespace);
                without_nodes(&subject.standing(), placement, &asked, error.into())?
            }
            Err(error) => return Err(PluginError::Refused(error.to_string())),
        };
        let lines: Vec<&str> = answer.lines().collect();
        let status = &subject.value()["status"];
        let value = json!({"job": title, "namespace": cluster.namespace, "status": status, "why": lines});
        Ok(output.print(&value, || answer.clone()))
    })
}

/// What can be told to somebody who may not see the nodes: what the status says, and which right is missing. Another fault stays one.
fn without_nodes(standing: &str, placement: &Value, asked: &str, error: PluginError) -> Result<String, PluginError> {
    let PluginError::Forbidden { verb, resource, place } = &error else { return Err(error) };
    if resource != "nodes" {
        return Err(error);
    }
    let placed = match (placement["device"].as_str(), placement["reason"].as_str()) {
        (Some(device), Some(reason)) => format!("Placed on {device}: {reason}\n"),
        _ => String::new(),
    };
    Ok(format!(
        "{standing}\n{placed}\nWhat each node has and lacks for it is not told: you may not {verb} {resource} {place}. Ask whoever runs \
         the cluster for a ClusterRole with that right, or for what this says: {asked}\n"
    ))
}

/// Whether this program was started as a plugin of kubectl's: by the name under which kubectl finds it.
pub(crate) fn is_plugin(program: Option<&str>) -> bool {
    program.and_then(|path| Path::new(path).file_name()).is_some_and(|name| name == "kubectl-trainyard")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_for_programs_has_an_object_for_each_row() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let table = Table { head: texts(&["NAME", "GPUS"]), rows: vec![texts(&["a", "8"])] };
        assert_eq!(rows(&table), json!([{"name": "a", "gpus": "8"}]));
    }

    #[test]
    fn who_may_not_see_nodes_is_told_the_rest_and_the_right_that_is_missing() {
        let forbidden = |resource: &str| PluginError::Forbidden {
            verb: "list".to_owned(),
            resource: resource.to_owned(),
            place: "in the whole cluster".to_owned(),
        };
        let placement = json!({"device": "Gpu", "reason": "4 nodes fit"});
        let told = without_nodes("Running: all is well", &placement, "trainyard why tj/a -n b", forbidden("nodes"));
        assert_eq!(
            told.expect("an answer"),
            "Running: all is well\nPlaced on Gpu: 4 nodes fit\n\nWhat each node has and lacks for it is not told: you may not list \
             nodes in the whole cluster. Ask whoever runs the cluster for a ClusterRole with that right, or for what this says: \
             trainyard why tj/a -n b\n"
        );
        for fault in [forbidden("trainingjobs"), PluginError::Unauthorized] {
            assert!(without_nodes("", &Value::Null, "", fault).is_err());
        }
    }

    #[test]
    fn the_name_it_is_started_by_decides_what_it_calls_itself() {
        for (name, expected) in [
            (Some("/usr/bin/kubectl-trainyard"), true),
            (Some("kubectl-trainyard"), true),
            (Some("trainyard"), false),
            (None, false),
        ] {
            assert_eq!(is_plugin(name), expected, "{name:?}");
        }
    }
}
