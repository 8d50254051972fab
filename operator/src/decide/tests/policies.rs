//! Every field of a run policy, by what it does: a job whose policy is changed while it runs comes to the end of one that had it from
//! the start, and each field makes another life of the same one.

use crds::TrainingJob;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::builders::*;
use crate::observe::{Backoff, Job, Member, Phase, Setting, World};

/// The table of all fields of a spec.
const FIELDS: &str = include_str!("../../../../tests/operator/fields.yaml");
/// What is done when a job has ended, of which there is nothing to decide: the lives of the operator's tests have it.
const AFTER_THE_END: &str = "ttlSecondsAfterFinished";
/// When the policy of a job is changed, in seconds.
const CHANGED: i64 = 20;

#[derive(Deserialize)]
struct Field {
    field: String,
    value: Value,
}

/// The fields of a run policy with another value for each.
fn fields() -> Vec<(String, Value)> {
    let mut table: Map<String, Value> = serde_saphyr::from_str(FIELDS).expect("a table of fields");
    let rows: Vec<Field> = serde_json::from_value(table.remove("TrainingJob").expect("a kind")).expect("rows");
    let of_policy =
        rows.into_iter().filter_map(|row| Some((row.field.strip_prefix("runPolicy.")?.to_owned(), row.value)));
    of_policy.collect()
}

/// A job of an image of one's own, which has codes of its own, with this policy.
fn job(policy: &Value) -> Job {
    let job: TrainingJob = serde_json::from_value(json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {
            "data": {"uri": "file:///data"}, "output": {"uri": "file:///model"},
            "infrastructure": {"image": "registry.example.com/trainer:1"}, "runPolicy": policy,
        },
    }))
    .expect("a job");
    Job::of_training(&job, Setting::anywhere(Backoff { first_seconds: 10, most_seconds: 300 }))
}

/// Does what is decided until nothing is, as a cluster without delay would.
fn settle(world: &mut World, seconds: i64) {
    for _ in 0..20 {
        let plan = world.decided(seconds);
        if plan.is_empty() {
            return;
        }
        world.members.retain(|member| plan.stop.iter().all(|stop| stop.uid != member.uid));
        for id in &plan.start {
            world.members.push(Member::new(*id, format!("uid-{}", id.attempt), running()));
        }
        *world = world.clone().then(&plan);
    }
    panic!("it never comes to rest");
}

/// Phase, attempt, failures and message at several times of a life that meets everything that a policy is about.
fn life(policy: impl Fn(i64) -> Value) -> Vec<(i64, Phase, u32, u32, String)> {
    let mut world = training(1);
    let mut seen = Vec::new();
    // A code of its own, no progress for very long, a storage that is lost again and again.
    let ends = [(30, 3), (4_000, 162), (6_000, 162), (8_000, 162)];
    for time in [0, CHANGED, 25, 30, 50, 70, 2_000, 2_100, 4_000, 5_000, 6_000, 7_000, 8_000, 9_000, 100_050] {
        world.job = job(&policy(time));
        if let Some((_, code)) = ends.iter().find(|(at, _)| *at == time) {
            world.members.iter_mut().filter(|member| member.is_live()).for_each(|member| member.state = ended(*code));
        }
        if [25, 70].contains(&time) {
            world = world.at_step(time.unsigned_abs());
        }
        settle(&mut world, time);
        let ledger = &world.ledger;
        seen.push((time, ledger.phase, ledger.attempt, ledger.failures, ledger.message.clone()));
    }
    seen.retain(|(time, ..)| *time >= CHANGED);
    seen
}

#[test]
fn a_policy_that_is_changed_on_the_way_is_as_one_that_was_there_from_the_start() {
    for (field, value) in fields() {
        // The table changes a job that is suspended, and lets it go.
        let before = if field == "suspend" { json!({ "suspend": true }) } else { json!({}) };
        let after = json!({ &field: value });
        let changed = life(|time| if time < CHANGED { before.clone() } else { after.clone() });
        let made = life(|_| after.clone());
        assert_eq!(changed, made, "{field}");
        assert_eq!(life(|_| before.clone()) == made, field == AFTER_THE_END, "{field} makes no other life");
    }
}
