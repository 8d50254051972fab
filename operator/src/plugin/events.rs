//! `trainyard events`: what the cluster said of a job and of its pods, the oldest first.

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::json;

use super::access::{Access, Cluster, Format};
use super::error::PluginError;
use super::job::Job;
use super::paint::span;
use super::subject::Subject;
use crate::build::names;
use crate::placement::Table;

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// The job or endpoint, such as flowers, tj/flowers, sj/flowers or me/flowers.
    job: String,
    /// How to write them.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    access: Access,
}

impl Events {
    /// Prints them; the exit code.
    pub(crate) fn run(&self) -> u8 {
        self.access.with_job(&self.job, async |cluster| {
            let subject = Subject::find(&cluster, &self.job).await?;
            let title = subject.title();
            let events = of(&cluster, |event| match &subject {
                Subject::Endpoint(endpoint) => is_of_endpoint(event, &endpoint.name),
                Subject::Job(job) => concerns(event, job),
            })
            .await?;
            let value = json!({"apiVersion": "v1", "kind": "List", "items": events});
            Ok(self.output.print(&value, || match events.is_empty() {
                true => {
                    format!("There are no events of {title} any more: clusters forget them after an hour\n")
                }
                false => table(&events, Timestamp::now()).to_string(),
            }))
        })
    }
}

/// The events that concern a job or an endpoint, by time.
async fn of(cluster: &Cluster, concerns: impl Fn(&Event) -> bool) -> Result<Vec<Event>, PluginError> {
    let mut events = cluster.list::<Event>(false, "").await?;
    events.retain(concerns);
    events.sort_by_key(when);
    Ok(events)
}

/// Whether an event is about an endpoint, or what belongs to it: the names of Deployment, ReplicaSets and pods begin alike.
fn is_of_endpoint(event: &Event, endpoint: &str) -> bool {
    let (about, own) = (&event.involved_object, names::of_endpoint(endpoint));
    let name = about.name.as_deref().unwrap_or_default();
    let hashed = |parts: usize| {
        let rest = name.strip_prefix(own.as_str()).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.split('-').count() == parts)
    };
    match about.kind.as_deref() {
        Some("ModelEndpoint") => name == endpoint,
        Some("Deployment" | "Service" | "PodDisruptionBudget" | "HorizontalPodAutoscaler") => name == own,
        Some("ReplicaSet") => hashed(1),
        Some("Pod") => hashed(2),
        _ => false,
    }
}

/// Whether an event is about a job or a pod of it, which may be gone.
fn concerns(event: &Event, job: &Job) -> bool {
    let about = &event.involved_object;
    let name = about.name.as_deref().unwrap_or_default();
    match about.kind.as_deref() {
        Some("Pod") => is_pod_of(name, job),
        Some(kind) => kind == job.kind.name() && name == job.name,
        None => false,
    }
}

/// Whether a pod has the name of a member: job, letter of the kind, attempt, number.
fn is_pod_of(pod: &str, job: &Job) -> bool {
    let number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let letter = &job.kind.short()[..1];
    let rest = pod.strip_prefix(job.name.as_str()).and_then(|rest| rest.strip_prefix('-'));
    let rest = rest.and_then(|rest| rest.strip_prefix(letter)).and_then(|rest| rest.split_once('-'));
    rest.is_some_and(|(attempt, member)| number(attempt) && number(member))
}

fn when(event: &Event) -> Timestamp {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let micro = event.event_time.as_ref().map(|time| time.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    series.or(last).or(micro).or(created).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn table(events: &[Event], now: Timestamp) -> Table {
    let row = |event: &Event| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let times = event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1);
        let age = span(now.as_second() - when(event).as_second());
        vec![
            if times > 1 { format!("{age} ({times} times)") } else { age },
            text(&event.type_),
            text(&event.reason),
            text(&event.involved_object.name),
            text(&event.message).replace('\n', " "),
        ]
    };
    let head = ["AGE", "TYPE", "REASON", "OBJECT", "MESSAGE"].map(str::to_owned).to_vec();
    Table { head, rows: events.iter().map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_known_by_its_name_even_when_it_is_gone() {
        let job = super::super::tree::tests::job(json!({}));
        for (pod, is_of) in [
            ("flowers-t1-0", true),
            ("flowers-t12-30", true),
            ("flowers-s1-0", false),
            ("flowers-2-t1-0", false),
            ("flowers-t1", false),
            ("flowers-t-0", false),
        ] {
            assert_eq!(is_pod_of(pod, &job), is_of, "{pod}");
        }
    }

    #[test]
    fn what_belongs_to_an_endpoint_is_known_by_its_name() {
        for (kind, name, is_of) in [
            ("ModelEndpoint", "flowers", true),
            ("TrainingJob", "flowers", false),
            ("Deployment", "flowers-m", true),
            ("ReplicaSet", "flowers-m-7d9", true),
            ("Pod", "flowers-m-7d9-abcde", true),
            ("Pod", "flowers-2-m-7d9-abcde", false),
            ("Pod", "flowers-t1-0", false),
        ] {
            let event = json!({"metadata": {}, "involvedObject": {"kind": kind, "name": name}});
            let event: Event = serde_json::from_value(event).expect("an event");
            assert_eq!(is_of_endpoint(&event, "flowers"), is_of, "{kind} {name}");
        }
    }

    #[test]
    fn events_are_a_table_with_their_counts() {
        let event: Event = serde_json::from_value(json!({
            "metadata": {}, "involvedObject": {"kind": "Pod", "name": "flowers-t1-0"}, "type": "Warning",
            "reason": "FailedScheduling", "message": "0/3 nodes\nare available", "count": 4,
            "lastTimestamp": "2026-01-01T00:00:00Z",
        }))
        .expect("an event");
        let text = table(&[event], "2026-01-01T00:01:30Z".parse().expect("a time")).to_string();
        assert!(
            text.contains("1m30s (4 times)   Warning   FailedScheduling   flowers-t1-0   0/3 nodes are available"),
            "{text}"
        );
    }
}
