//! The gate in the pod and the gate that was counted by are one: in random pools, the scheduler lets a pod onto exactly the
//! nodes that pass the filters.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::builders::*;
use super::scheduler::lets;
use crate::observe::NodeFacts;
use crate::placement::{Step, why};

const RESOURCES: [&str; 3] = ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "nvidia.com/gpu.shared"];
const PRODUCTS: [&str; 3] = ["P", "Q", "P-MIG-1g.5gb"];

/// What a label may say: mostly a number near a bound, sometimes nothing or nonsense.
fn number(near: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        8 => select(near).prop_map(|text| Some(text.to_owned())),
        1 => Just(None),
        1 => select(vec!["", "x", "007", "99999999999999999999", "9.0"]).prop_map(|text| Some(text.to_owned())),
    ]
}

fn labels() -> impl Strategy<Value = Vec<(String, String)>> {
    let driver = || {
        let major = number(&["418", "440", "450", "525", "579", "580", "581"]);
        (major, number(&["32", "33", "34", "60", "64", "65", "66", "80"]), number(&["", "02", "05", "06", "13", "7"]))
    };
    let compute = (number(&["3", "7", "8", "9", "10"]), number(&["0", "5", "4", "6", "9"]));
    let sharing =
        || prop_oneof![Just(None), select(vec!["none", "mps", "time-slicing"]).prop_map(|by| Some(by.to_owned()))];
    let kind = || (prop::option::of(select(&PRODUCTS[..])), number(&["4863", "4864", "40960", "81559"]));
    let shares = || (number(&["0", "1", "2", "8"]), sharing());
    let zone = prop::option::of(select(vec!["a", "b"]));
    let other = prop_oneof![
        8 => Just(None),
        1 => Just(Some(("kubernetes.io/arch", "arm64"))),
        1 => Just(Some(("kubernetes.io/os", "windows"))),
    ];
    let zone = (zone, other);
    (driver(), driver(), prop::option::weighted(0.8, compute), kind(), shares(), kind(), shares(), zone).prop_map(
        |(new, old, compute, whole, whole_shares, slice, slice_shares, (zone, other))| {
            let mut labels = Vec::new();
            let mut add = |name: &str, value: Option<String>| {
                labels.extend(value.map(|value| (name.to_owned(), value)));
            };
            add("nvidia.com/cuda.driver-version.major", new.0);
            add("nvidia.com/cuda.driver-version.minor", new.1);
            add("nvidia.com/cuda.driver-version.revision", new.2);
            add("nvidia.com/cuda.driver.major", old.0);
            add("nvidia.com/cuda.driver.minor", old.1);
            add("nvidia.com/cuda.driver.rev", old.2);
            let (major, minor) = compute.unwrap_or_default();
            add("nvidia.com/gpu.compute.major", major);
            add("nvidia.com/gpu.compute.minor", minor);
            for (resource, (product, memory), (replicas, sharing)) in
                [("nvidia.com/gpu", whole, whole_shares), ("nvidia.com/mig-1g.5gb", slice, slice_shares)]
            {
                add(&format!("{resource}.product"), product.map(str::to_owned));
                add(&format!("{resource}.memory"), memory);
                add(&format!("{resource}.replicas"), replicas);
                add(&format!("{resource}.sharing-strategy"), sharing);
            }
            add("zone", zone.map(str::to_owned));
            labels.extend(other.map(|(name, value)| (name.to_owned(), value.to_owned())));
            labels
        },
    )
}

fn pool() -> impl Strategy<Value = Vec<NodeFacts>> {
    let described = prop_oneof![
        3 => labels(),
        1 => Just(Vec::new()),
    ];
    let node = (described, prop::collection::vec(0_u64..5, 3));
    let nodes = prop_oneof![
        4 => prop::collection::vec(node, 1..8),
        1 => prop::collection::vec((Just(Vec::new()), prop::collection::vec(1_u64..5, 3)), 1..4),
    ];
    nodes.prop_map(|nodes| {
        let described = nodes.into_iter().enumerate().map(|(index, (labels, amounts))| {
            let plain = cpus(&format!("n{index}"));
            let labelled = labels.into_iter().fold(plain, |node, (name, value)| node.labelled(&name, value));
            RESOURCES.iter().zip(amounts).fold(labelled, |node, (resource, amount)| node.offers(resource, amount))
        });
        described.collect()
    })
}

/// A requirement of a job's own, of each operator that there is.
fn own() -> impl Strategy<Value = Value> {
    let expression = select(vec![
        json!({"key": "zone", "operator": "In", "values": ["a"]}),
        json!({"key": "zone", "operator": "NotIn", "values": ["a", "c"]}),
        json!({"key": "zone", "operator": "Exists"}),
        json!({"key": "zone", "operator": "DoesNotExist"}),
        json!({"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["40000"]}),
        json!({"key": "nvidia.com/gpu.memory", "operator": "Lt", "values": ["50000"]}),
    ]);
    let field = select(vec![
        json!({"key": "metadata.name", "operator": "In", "values": ["n1"]}),
        json!({"key": "metadata.name", "operator": "NotIn", "values": ["n0"]}),
    ]);
    (prop::collection::vec(expression, 0..3), prop::collection::vec(field, 0..2))
        .prop_map(|(expressions, fields)| json!({"matchExpressions": expressions, "matchFields": fields}))
}

fn job() -> impl Strategy<Value = Job> {
    let wish = (1_u32..4, select(&RESOURCES[..]), prop::collection::vec(select(&PRODUCTS[..]), 0..3));
    let memory = prop::option::of(select(vec!["0", "4Gi", "4864Mi", "40Gi", "81559Mi", "1Ki"]));
    let runtime = select(vec![Some("cuda-13.0"), Some("cuda-12.4"), Some("cuda-11.3"), Some("cuda-10.2"), None]);
    let terms = prop::option::of(prop::collection::vec(own(), 1..4));
    (wish, memory, runtime, any::<bool>(), terms, prop::collection::vec(0_usize..8, 0..3), prop::option::of(Just("a")))
        .prop_map(|((each, resource, products), memory, runtime, image, terms, excluded, zone)| {
            let mut job = gpus(each).of(resource);
            job = products.into_iter().fold(job, Job::product);
            job = memory.into_iter().fold(job, Job::memory);
            job = runtime.into_iter().fold(job, Job::runtime);
            if image {
                job = job.image("mine");
            }
            job = terms.into_iter().fold(job, |job, terms| job.terms(Value::from(terms)));
            job = zone.into_iter().fold(job, |job, zone| job.select("zone", zone));
            excluded.into_iter().fold(job, |job, node| job.without(&format!("n{node}")))
        })
}

/// What the scheduler sees to by other means than node selection: resources and taints.
const NOT_IN_THE_GATE: [Step; 3] = [Step::Offered, Step::Tolerated, Step::Size];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_scheduler_lets_a_pod_onto_exactly_the_nodes_that_pass_the_filters(pool in pool(), mut job in job()) {
        if let Ok(placed) = job.placed(&pool) {
            // Rows are of one runtime: the one that was taken.
            job.infrastructure.runtime = placed.runtime.clone();
            for row in why(&job.request(), &pool, &catalogue()).expect("rows") {
                let passes = row.verdicts.iter().all(|one| one.passes || NOT_IN_THE_GATE.contains(&one.step));
                for node in pool.iter().filter(|node| row.nodes.contains(&node.name)) {
                    prop_assert_eq!(lets(&job, &placed, node), passes, "{:?} on {:?}", &row.verdicts, node);
                }
            }
        }
    }

    #[test]
    fn a_job_is_placed_if_and_only_if_the_nodes_that_fit_have_room(pool in pool(), job in job()) {
        let resource = job.infrastructure.gpu.resource_name.clone();
        let rows = why(&job.request(), &pool, &catalogue()).expect("rows");
        let fitting = pool.iter().filter(|node| rows.iter().any(|row| row.fits() && row.nodes.contains(&node.name)));
        let fits = fitting.map(|node| node.devices(&resource)).any(|devices| devices > 0);
        let placed = job.placed(&pool);
        prop_assert_eq!(placed.is_ok(), fits, "{:?}", placed);
        if let Err(refusal) = placed {
            prop_assert!(refusal.text().len() <= 1024 && !refusal.message.contains("there is )"), "{}", refusal);
        }
    }
}
