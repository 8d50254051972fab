//! Nodes as clusters have them, and as they should not be.

use super::*;
use serde_json::json;

fn labelled(labels: &[(&str, &str)]) -> NodeFacts {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    NodeFacts { labels, ready: true, ..NodeFacts::default() }
}

#[test]
fn a_node_is_read_whole() {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "a", "labels": {"nvidia.com/gpu.memory": "81559"}},
        "spec": {"unschedulable": true, "taints": [
            {"key": "gpu.nvidia.com/xid", "effect": "NoSchedule"}, {"key": "team", "value": "b", "effect": "NoExecute"},
        ]},
        "status": {
            "capacity": {"cpu": "8", "nvidia.com/gpu": "8", "nvidia.com/mig-1g.5gb": "1k", "vendor/odd": "many"},
            "allocatable": {"cpu": "7500m", "memory": "30Gi", "nvidia.com/gpu": "7"},
            "conditions": [
                {"type": "Ready", "status": "True"}, {"type": "GpuMemWatch", "status": "True", "message": "ErrorCode:95 PCI:0002:00:00"},
                {"type": "GpuPcieWatch", "status": "False", "message": "ErrorCode:79"}, {"type": "AcceleratedHardwareReady", "status": "False"},
            ],
        },
    }))
    .expect("a node");
    let taints = node.spec.clone().and_then(|spec| spec.taints).unwrap_or_default();
    let facts = NodeFacts {
        name: "a".to_owned(),
        labels: [("nvidia.com/gpu.memory".to_owned(), "81559".to_owned())].into(),
        taints,
        cordoned: true,
        ready: true,
        capacity: [("nvidia.com/gpu".to_owned(), 8), ("nvidia.com/mig-1g.5gb".to_owned(), 1000)].into(),
        allocatable: [("nvidia.com/gpu".to_owned(), 7)].into(),
        cpu: Some(7500),
        memory_bytes: Some(30 << 30),
        faults: ["GpuMemWatch", "AcceleratedHardwareReady", "gpu.nvidia.com/xid"].map(str::to_owned).to_vec(),
        xid: Xid::named_in("Xid 95"),
    };
    assert!(facts.xid.is_some());
    assert_eq!(NodeFacts::of(&node), facts);
    assert_eq!(NodeFacts::of(&Node::default()), NodeFacts::default());
}

#[test]
fn the_driver_is_read_from_new_labels_then_from_old_ones() {
    let known = |text: &str| Reading::Known(text.parse().expect("a version"));
    let malformed = |text: &str| Reading::Malformed(text.to_owned());
    let (new, old) = ("nvidia.com/cuda.driver-version", "nvidia.com/cuda.driver");
    let table: [(&[(&str, &str, &str)], Reading<DriverVersion>); 9] = [
        (&[], Reading::Absent),
        (&[(new, "major", "580"), (new, "minor", "65"), (new, "revision", "06")], known("580.65.06")),
        (&[(old, "major", "450"), (old, "minor", "80"), (old, "rev", "02")], known("450.80.02")),
        (&[(old, "major", "418"), (old, "minor", "39"), (old, "rev", "")], known("418.39")),
        (&[(new, "major", "535"), (new, "minor", "104"), (old, "major", "418"), (old, "minor", "1")], known("535.104")),
        (&[(new, "major", "five"), (new, "minor", "1")], malformed("nvidia.com/cuda.driver-version.major=\"five\"")),
        (&[(new, "major", "535")], malformed("nvidia.com/cuda.driver-version.minor is missing")),
        (&[(old, "major", "535"), (old, "minor", "")], malformed("nvidia.com/cuda.driver.minor=\"\"")),
        (
            &[(new, "major", "99999999999"), (new, "minor", "1")],
            malformed("nvidia.com/cuda.driver-version.major=\"99999999999\""),
        ),
    ];
    for (labels, driver) in table {
        let names: Vec<(String, &str)> = labels.iter().map(|(a, b, value)| (format!("{a}.{b}"), *value)).collect();
        let node = labelled(&names.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>());
        assert_eq!(node.driver(), driver, "{labels:?}");
    }
}

#[test]
fn sharing_is_told_in_words() {
    let (replicas, strategy) = ("nvidia.com/gpu.replicas", "nvidia.com/gpu.sharing-strategy");
    let table: [(&[(&str, &str)], &str, Option<&str>); 7] = [
        (&[], "nvidia.com/gpu", None),
        (&[(replicas, "1"), (strategy, "none")], "nvidia.com/gpu", None),
        (&[(replicas, "4"), (strategy, "time-slicing")], "nvidia.com/gpu", Some("time-slicing x4")),
        (&[(replicas, "4"), (strategy, "mps")], "nvidia.com/gpu.shared", Some("mps x4")),
        (&[(replicas, "4")], "nvidia.com/gpu", Some("x4")),
        (&[], "nvidia.com/gpu.shared", Some("renamed")),
        (&[(replicas, "4")], "nvidia.com/mig-1g.5gb", None),
    ];
    for (labels, resource, sharing) in table {
        assert_eq!(labelled(labels).sharing(resource).as_deref(), sharing, "{labels:?} {resource}");
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    let mut node = labelled(&[
        ("nvidia.com/gpu.memory", "80GB"),
        ("nvidia.com/gpu.compute.major", "9"),
        ("nvidia.com/gpu.replicas", ""),
        ("dgxc.nvidia.com/nvsentinel-state", "draining"),
    ]);
    (node.ready, node.cordoned) = (false, true);
    node.faults = vec!["GpuMemWatch".to_owned()];
    node.capacity = [("nvidia.com/gpu".to_owned(), 8)].into();
    let remarks = [
        "unreadable label: nvidia.com/gpu.compute.minor is missing",
        "unreadable label: nvidia.com/gpu.memory=\"80GB\"",
        "unreadable label: nvidia.com/gpu.replicas=\"\"",
        "not ready",
        "cordoned",
        "fault: GpuMemWatch",
        "NVSentinel: draining",
        "8 of 8 devices can't be given to pods",
    ];
    assert_eq!(node.remarks("nvidia.com/gpu"), remarks);
}
