//! Mixed pools: what a job gets there, and what it is told where it gets nothing.

use serde_json::json;

use super::builders::*;
use super::scheduler::lets;
use crate::observe::NodeFacts;
use crate::placement::{Catalogue, Request, Why, place};
use crds::infrastructure::Device;
use crds::open::Open;
use k8s_openapi::api::core::v1::Toleration;

/// Twelve nodes with GPUs of all ages, and two without.
fn mixed() -> Vec<NodeFacts> {
    let mut pool = vec![cpus("cpu-1"), cpus("cpu-2")];
    pool.extend((1..=4).map(|n| v100(&format!("v100-{n}"), 8).with_old_driver("418.39")));
    pool.extend((1..=4).map(|n| a100(&format!("a100-{n}"), 8).with_driver("535.104.05")));
    pool.extend((1..=3).map(|n| h100(&format!("h100-{n}"), 4).with_driver("580.65.06")));
    pool.push(b200("b200-1", 4).with_driver("590.1"));
    pool
}

#[test]
fn a_refusal_says_where_the_nodes_ran_out_with_counts() {
    let runs_out = |pool: Vec<NodeFacts>, job: Job| job.refused(&pool);
    let shared = || vec![h100("a", 4).shared("time-slicing", 4), h100("b", 4).shared("mps", 2)];
    for (pool, job, sentence) in [
        (
            mixed(),
            gpus(8).runtime("cuda-13.0"),
            "runtime cuda-13.0 needs driver 580.65.06 or newer; 4 of 12 GPU nodes have it, none of them has 8 GPUs (the largest has 4)",
        ),
        (vec![cpus("a")], gpus(1), "no node has nvidia.com/gpu (1 node was looked at)"),
        (vec![], gpus(1), "no node has nvidia.com/gpu (there are no nodes at all)"),
        (
            vec![h100("a", 0)],
            gpus(1),
            "no node has nvidia.com/gpu (1 node was looked at; 1 of them with labels of GPUs and none to give)",
        ),
        (
            vec![a100("a", 1).mig_mixed("1g.5gb", 7, 4864)],
            gpus(1),
            "no node has nvidia.com/gpu (1 node was looked at; there is nvidia.com/mig-1g.5gb)",
        ),
        (
            mixed(),
            gpus(1).runtime("cuda-13.0").product("NVIDIA-A100-SXM4-40GB"),
            "the job wants NVIDIA-A100-SXM4-40GB; 4 of 12 GPU nodes have it, none of them has driver 580.65.06 or newer, which runtime cuda-13.0 needs (the newest is 535.104.05)",
        ),
        (
            mixed(),
            gpus(1).product("NVIDIA-H200"),
            "the job wants NVIDIA-H200; none of 12 GPU nodes has it (there is NVIDIA-A100-SXM4-40GB, NVIDIA-B200, NVIDIA-H100-80GB-HBM3, Tesla-V100-SXM2-16GB)",
        ),
        (
            mixed(),
            gpus(8).on(9),
            "no runtime of the catalogue has room, cuda-12.4 the nearest: runtime cuda-12.4 needs driver 525.60.13 or newer; 8 of 12 GPU nodes have it, 7 of them have GPUs that runtime cuda-12.4 has code for (compute capability 5.0, 6.0, 7.0, 7.5, 8.0, 8.6, 9.0), 4 of them have 8 GPUs; 9 pods of 8 GPUs each must run at a time, and there is room for 4",
        ),
        (
            vec![h100("a", 1)],
            gpus(1).runtime("cuda-13.0").memory("80Gi"),
            "the job wants 80Gi of memory on each GPU; none of 1 GPU node has it (the largest has 79.6Gi)",
        ),
        (
            shared(),
            gpus(2).runtime("cuda-13.0"),
            "2 GPUs of a pod must not be shared (time-slicing, MPS); none of 2 GPU nodes has such (there is mps x2, time-slicing x4)",
        ),
        (
            vec![v100("a", 1)],
            gpus(1).runtime("cuda-13.0"),
            "runtime cuda-13.0 has code for compute capability 7.5, 8.0, 8.6, 9.0, 10.0, 12.0; none of 1 GPU node has such GPUs (there is 7.0)",
        ),
        (
            vec![h100("a", 8).taint("team", "b"), h100("b", 8).taint("dedicated", "")],
            gpus(1).runtime("cuda-13.0"),
            "the job must tolerate its nodes' taints; none of 2 GPU nodes is open to it (there is dedicated:NoSchedule, team=b:NoSchedule)",
        ),
        (
            mixed(),
            gpus(1).runtime("cuda-13.0").select("zone", "a"),
            "the job's nodeSelector and affinity choose its nodes; none of 12 GPU nodes is chosen",
        ),
        (
            vec![h100("a", 8), h100("b", 8)],
            gpus(1).runtime("cuda-13.0").without("a").without("b"),
            "nodes where an attempt met a fault are left out; none of 2 GPU nodes is left",
        ),
        (
            mixed(),
            gpus(4).on(5).runtime("cuda-13.0"),
            "runtime cuda-13.0 needs driver 580.65.06 or newer; 4 of 12 GPU nodes have it; 5 pods of 4 GPUs each must run at a time, and there is room for 4",
        ),
        (
            vec![h100("a", 8)],
            gpus(3).on(3).runtime("cuda-13.0"),
            "3 pods of 3 GPUs each must run at a time, and there is room for 2 on 1 GPU node",
        ),
    ] {
        assert_eq!(runs_out(pool, job), sentence);
    }
}

#[test]
fn what_a_pod_asks_for_of_cpu_and_memory_is_part_of_its_size() {
    let has = |name: &str, cpus: u64, gib: u64| NodeFacts {
        cpu: Some(cpus * 1000),
        memory_bytes: Some(gib << 30),
        ..h100(name, 8)
    };
    let asks = |cpu: &str, memory: &str| {
        let resources = json!({"requests": {"memory": memory}, "limits": {"cpu": cpu, "memory": "9Ei"}});
        gpus(4).runtime("cuda-13.0").with(|wish| wish.pod.resources = serde_json::from_value(resources).ok())
    };
    let pool = [has("a", 64, 512), has("b", 192, 1024)];
    for (job, sentence) in [
        (
            asks("16", "10Ti"),
            "each pod needs 4 GPUs, 16 CPUs and 10Ti of memory; none of 2 GPU nodes has them (the most memory of one is 1024Gi)",
        ),
        (
            asks("192500m", "1Gi"),
            "each pod needs 4 GPUs, 192500m CPUs and 1Gi of memory; none of 2 GPU nodes has them (the most CPUs of one are 192)",
        ),
        (
            asks("64", "600Gi").on(2),
            "each pod needs 4 GPUs, 64 CPUs and 600Gi of memory; 1 of 2 GPU nodes has them; 2 pods of 4 GPUs, 64 CPUs and 600Gi of memory each must run at a time, and there is room for 1",
        ),
    ] {
        assert_eq!(job.refused(&pool), sentence);
    }
    assert!(asks("64", "512Gi").on(3).placed(&pool).is_ok(), "one on the first node, two on the second");
    let split = [has("a", 192, 8), has("b", 8, 1024)];
    assert!(asks("64", "512Gi").refused(&split).ends_with("(no node has all of it)"));
    assert!(asks("64", "10Ti").placed(&[h100("a", 4)]).is_ok(), "this node does not say what it has");
}

#[test]
fn a_refusal_fits_a_status_however_long_the_names() {
    let long = |n: u32| format!("{n}{}", "x".repeat(62));
    let pool: Vec<NodeFacts> = (0..200).map(|n| h100(&long(n), 1).taint(&long(n).repeat(4), &long(n))).collect();
    let job = (0..64).fold(gpus(1), |job, n| job.product(&long(n)));
    for job in [job, gpus(1)] {
        let refusal = job.placed(&pool).unwrap_err();
        assert!(refusal.text().len() <= 1024, "{}", refusal.text().len());
    }
}

#[test]
fn the_newest_runtime_is_taken_for_which_the_whole_gang_has_room() {
    for (job, runtime) in [
        (gpus(1), "cuda-13.0"),
        (gpus(4).on(4), "cuda-13.0"),
        (gpus(8).on(1), "cuda-12.4"),
        (gpus(8).on(4), "cuda-12.4"),
        (gpus(4).on(8), "cuda-12.4"),
        (gpus(4).on(11), "cuda-12.4"),
        (gpus(1).product("NVIDIA-A100-SXM4-40GB"), "cuda-12.4"),
    ] {
        let placed = job.placed(&mixed()).unwrap_or_else(|refusal| panic!("{refusal}"));
        assert_eq!(placed.runtime.as_deref(), Some(runtime), "{:?}", job.infrastructure);
    }
    let old = vec![v100("a", 8).with_old_driver("440.33.01"), v100("b", 8).with_old_driver("450.80.02")];
    assert_eq!(gpus(8).placed(&old).unwrap().runtime.as_deref(), Some("cuda-11.3"));
    assert_eq!(gpus(8).on(2).placed(&old).unwrap().runtime.as_deref(), Some("cuda-10.2"));
}

#[test]
fn auto_takes_gpus_if_there_can_ever_be_any_and_says_why_not_otherwise() {
    let busy_or_away = vec![NodeFacts { cordoned: true, ready: false, ..h100("a", 8) }];
    for (pool, job, reason) in [
        (mixed(), auto(1), "Gpu: runtime cuda-13.0 needs driver 580.65.06 or newer; 4 of 12 GPU nodes fit"),
        (
            busy_or_away,
            auto(8),
            "Gpu: runtime cuda-13.0 needs driver 580.65.06 or newer; 1 of 1 GPU node fits; 1 of them cordoned or not ready now",
        ),
        (
            vec![cpus("a"), cpus("b")],
            auto(1),
            "Cpu: no GPUs for this job: no node has nvidia.com/gpu (2 nodes were looked at)",
        ),
        (
            vec![h100("a", 4)],
            auto(8),
            "Cpu: no GPUs for this job: each pod needs 8 GPUs; none of 1 GPU node has them (the largest has 4)",
        ),
        (mixed(), auto(1).runtime("cpu"), "Cpu: no GPUs for this job: runtime cpu is for CPUs"),
        (mixed(), auto(1).with(|wish| wish.device = Device::Cpu), "Cpu: asked for by spec.infrastructure.device"),
    ] {
        assert_eq!(job.reason(&pool), reason);
    }
}

#[test]
fn a_spec_that_names_what_there_is_not_is_refused_at_once() {
    let known = "cuda-13.0, cuda-12.4, cuda-11.3, cuda-10.2";
    for (job, message, hint) in [
        (
            auto(1).runtime("cuda-9.0"),
            "there is no runtime cuda-9.0 in the operator's catalogue",
            format!("Set infrastructure.runtime to one that there is: {known}, cpu"),
        ),
        (
            gpus(1).runtime("cpu"),
            "runtime cpu is for CPUs",
            format!("Set infrastructure.runtime to one for GPUs ({known}), or device to Cpu"),
        ),
    ] {
        let refusal = job.placed(&mixed()).unwrap_err();
        assert_eq!((refusal.why, refusal.message.as_str(), refusal.hint), (Why::BadSpec, message, hint));
    }
}

#[test]
fn without_labels_the_resource_alone_decides_and_says_so() {
    let job = gpus(2);
    let pool = [bare("a", 4), bare("b", 1), cpus("c")];
    assert_eq!(
        job.reason(&pool),
        "Gpu: runtime cuda-13.0 needs driver 580.65.06 or newer; 1 of 2 GPU nodes fits; no GPU node has labels of GPU Feature Discovery, the pods check driver and GPU themselves before they start"
    );
    let placed = job.placed(&pool).unwrap();
    assert!(lets(&job, &placed, &bare("new", 8)), "it may go to a node without labels");
    assert!(lets(&job, &placed, &h100("new", 8)), "and to one that gets labels that fit");
    assert!(!lets(&job, &placed, &h100("new", 8).with_driver("418.39")), "but not to one whose labels say no");

    let one_described = [bare("a", 4), h100("b", 4)];
    let placed = job.placed(&one_described).unwrap();
    assert_eq!(one_described.each_ref().map(|node| lets(&job, &placed, node)), [false, true]);
    let chosen = job.select("team", "a");
    let pool = [bare("a", 4).labelled("team", "a"), h100("b", 4)];
    let placed = chosen.placed(&pool).unwrap();
    assert!(lets(&chosen, &placed, &pool[0]), "what others say is nothing to a job that may not go to them");
    assert_eq!(
        gpus(1).product("X").refused(&[bare("a", 1)]).split("; ").last(),
        Some("none of 1 GPU node has it (no label nvidia.com/gpu.product)")
    );
}

#[test]
fn labels_that_cannot_be_read_count_as_unknown() {
    let job = gpus(1).runtime("cuda-13.0");
    for broken in [
        h100("a", 1).labelled("nvidia.com/cuda.driver-version.major", "v580"),
        h100("a", 1).labelled("nvidia.com/cuda.driver-version.minor", ""),
        h100("a", 1).labelled("nvidia.com/gpu.compute.major", "nine"),
        h100("a", 1).without("nvidia.com/gpu.compute.major"),
    ] {
        let pool = [broken, h100("b", 1)];
        let placed = job.placed(&pool).unwrap();
        assert_eq!(pool.each_ref().map(|node| lets(&job, &placed, node)), [false, true], "{:?}", pool[0].labels);
    }
}

#[test]
fn mig_slices_are_taken_by_their_own_labels() {
    let mixed = a100("a", 1).mig_mixed("2g.10gb", 3, 9_856);
    let single = a100("b", 1).mig_single("1g.5gb", 7, 4_864);
    let pool = [mixed, single, h100("c", 1)];
    let where_to = |job: &Job| {
        let placed = job.placed(&pool);
        let offers = |node: &&NodeFacts| node.devices(&job.infrastructure.gpu.resource_name) > 0;
        placed.map(|placed| {
            let nodes = pool.iter().filter(offers).filter(|node| lets(job, &placed, node));
            nodes.map(|node| node.name.clone()).collect::<Vec<_>>().join("")
        })
    };
    let profile = "nvidia.com/mig-2g.10gb";
    for (job, nodes) in [
        (gpus(1).of(profile), Some("a")),
        (gpus(1).of(profile).memory("9Gi"), Some("a")),
        (gpus(1).of(profile).memory("10Gi"), None),
        (gpus(1).of(profile).product("NVIDIA-A100-SXM4-40GB"), Some("a")),
        (gpus(1).of(profile).product("NVIDIA-A100-SXM4-40GB-MIG-2g.10gb"), Some("a")),
        (gpus(1).of(profile).product("NVIDIA-H100-80GB-HBM3"), None),
        (gpus(1), Some("bc")),
        (gpus(1).memory("5Gi"), Some("c")),
        (gpus(1).product("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"), Some("b")),
    ] {
        assert_eq!(where_to(&job).ok().as_deref(), nodes, "{:?}", job.infrastructure.gpu);
    }
    let refused = gpus(4).of(profile).runtime("cuda-13.0").refused(&pool);
    assert_eq!(
        refused,
        "each pod needs 4 nvidia.com/mig-2g.10gb; none of 1 node with nvidia.com/mig-2g.10gb has them (the largest has 3)"
    );
}

#[test]
fn two_gpus_of_a_pod_are_never_shared_ones() {
    let sliced = h100("a", 1).shared("time-slicing", 8);
    let mps = h100("b", 1).shared("mps", 8);
    let older = h100("c", 1).shared("none", 8).without("nvidia.com/gpu.sharing-strategy");
    let whole = h100("d", 2);
    let before_sharing = h100("e", 2).without("nvidia.com/gpu.replicas").without("nvidia.com/gpu.sharing-strategy");
    let pool = [sliced, mps, older, whole, before_sharing];
    for (gpus_per_pod, expected) in [(1, [true; 5]), (2, [false, false, false, true, true])] {
        let job = gpus(gpus_per_pod);
        let placed = job.placed(&pool).unwrap();
        assert_eq!(pool.each_ref().map(|node| lets(&job, &placed, node)), expected, "{gpus_per_pod} each");
    }
    let renamed = h100("a", 0).offers("nvidia.com/gpu.shared", 8).labelled("nvidia.com/gpu.replicas", 8);
    assert!(gpus(1).of("nvidia.com/gpu.shared").placed(std::slice::from_ref(&renamed)).is_ok());
    assert!(gpus(2).of("nvidia.com/gpu.shared").placed(&[renamed]).is_err());
}

#[test]
fn a_node_that_reports_a_fault_is_avoided_while_the_others_suffice() {
    let pool = [h100("a", 4).fault("GpuMemWatch"), h100("b", 4)];
    let job = gpus(4);
    let placed = job.placed(&pool).unwrap();
    assert_eq!(pool.each_ref().map(|node| lets(&job, &placed, node)), [false, true]);
    assert_eq!(
        gpus(4).on(2).reason(&pool),
        "Gpu: runtime cuda-13.0 needs driver 580.65.06 or newer; 2 of 2 GPU nodes fit; 1 of them reporting a fault now"
    );
}

#[test]
fn the_custom_taint_of_gpu_nodes_is_tolerated_and_nodes_left_out_are_no_way_back() {
    let pool = [h100("a", 1).taint("nvidia.com/gpu", "present"), h100("b", 1)];
    let job = gpus(1).without("b");
    let placed = job.placed(&pool).unwrap();
    assert_eq!(pool.each_ref().map(|node| lets(&job, &placed, node)), [true, false]);
    let ours = Toleration {
        key: Some("nvidia.com/gpu".to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    };
    assert_eq!(placed.tolerations, [ours]);
}

#[test]
fn an_image_of_ones_own_is_gated_by_what_is_known_of_it() {
    let pool = [v100("a", 1).with_old_driver("418.39"), h100("b", 1)];
    let own = gpus(1).image("mine:1");
    let placed = own.placed(&pool).unwrap();
    assert_eq!((placed.runtime.as_deref(), placed.image.as_str(), &placed.affinity), (None, "mine:1", &None));
    assert!(placed.reason.starts_with("the image's CUDA is not known"), "{}", placed.reason);
    let named = gpus(1).image("mine:1").runtime("cuda-13.0");
    let placed = named.placed(&pool).unwrap();
    assert_eq!((placed.runtime.as_deref(), placed.image.as_str()), (Some("cuda-13.0"), "mine:1"));
    assert_eq!(pool.each_ref().map(|node| lets(&named, &placed, node)), [false, true]);
}

#[test]
fn where_nodes_are_not_read_the_driver_table_is_the_gate() {
    let job = gpus(2).on(3);
    let placed = place(&job.request(), None, &catalogue()).unwrap();
    assert_eq!((placed.runtime.as_deref(), placed.gpus), (Some("cuda-13.0"), 6));
    assert_eq!(
        placed.reason,
        "runtime cuda-13.0 needs driver 580.65.06 or newer; nodes are not read, the pods check driver and GPU themselves before they start"
    );
    for (node, goes) in [(h100("a", 2), true), (h100("a", 2).with_driver("535.1"), false), (bare("a", 2), true)] {
        assert_eq!(lets(&job, &placed, &node), goes, "{:?}", node.labels);
    }
    let auto = place(&auto(2).request(), None, &catalogue()).unwrap();
    assert_eq!((auto.device, auto.image.as_str()), (Device::Cpu, "t:cpu"));
}

#[test]
fn nodes_that_our_images_are_not_for_are_counted_out_and_named() {
    let pool = [h100("a", 4).arm(), h100("b", 4).arm(), h100("c", 4)];
    let cpu = |job: Job| job.with(|wish| wish.device = Device::Cpu);
    assert_eq!(
        gpus(4).reason(&pool),
        "Gpu: runtime cuda-13.0 needs driver 580.65.06 or newer; 1 of 3 GPU nodes fits; 2 nodes are linux/arm64, which the image of runtime cuda-13.0 is not for"
    );
    assert_eq!(
        cpu(gpus(1)).reason(&pool),
        "Cpu: asked for by spec.infrastructure.device; 2 nodes are linux/arm64, which the image of runtime cpu is not for"
    );
    for job in [gpus(4), cpu(gpus(1))] {
        let placed = job.placed(&pool).unwrap();
        assert_eq!(pool.each_ref().map(|node| lets(&job, &placed, node)), [false, false, true]);
        let windows = cpus("w").labelled("kubernetes.io/os", "windows");
        assert!(!lets(&job, &placed, &windows));
    }
    assert_eq!(
        gpus(4).runtime("cuda-13.0").refused(&pool[..2]),
        "runtime cuda-13.0 is for linux/amd64; none of 2 GPU nodes is such (there is linux/arm64)"
    );
    assert_eq!(
        cpu(gpus(1)).refused(&pool[..2]),
        "of the nodes that the job may use, 2 nodes are linux/arm64, which the image of runtime cpu is not for"
    );
    let grows = cpu(gpus(1));
    let grows = Request { autoscaled: true, ..grows.request() };
    assert!(place(&grows, Some(&pool[..2]), &catalogue()).is_ok(), "others may come");

    // Of an image of one's own nobody knows what it is for.
    for own in [gpus(4).image("mine:1"), cpu(gpus(1).image("mine:1")), gpus(4).image("mine:1").runtime("cuda-13.0")] {
        let placed = own.placed(&pool).unwrap();
        assert_eq!(pool.each_ref().map(|node| lets(&own, &placed, node)), [true; 3]);
        assert!(!placed.reason.contains("arm64"), "{}", placed.reason);
    }
    let both = Catalogue::parse("runtimes: [{name: cpu, image: i, architectures: [amd64, arm64]}]").unwrap();
    let job = cpu(gpus(1));
    let placed = place(&job.request(), Some(&pool), &both).unwrap();
    assert_eq!(pool.each_ref().map(|node| lets(&job, &placed, node)), [true; 3]);
}

#[test]
fn on_cpus_only_the_nodes_left_out_are_kept_from_a_job() {
    let cpu = |job: Job| job.with(|wish| wish.device = Device::Cpu);
    let job = cpu(gpus(1).terms(json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}])));
    let own = job.clone().image("mine:1");
    assert_eq!(own.placed(&[cpus("x")]).unwrap().affinity.map(Open::Fits), job.infrastructure.pod.affinity);
    let without = job.without("bad");
    let placed = without.placed(&[]).unwrap();
    let seen = [("bad", "a"), ("good", "a"), ("good", "b")];
    assert_eq!(
        seen.map(|(name, zone)| lets(&without, &placed, &cpus(name).labelled("zone", zone))),
        [false, true, false]
    );
    let all = cpu(gpus(1).without("x").without("y")).refused(&[cpus("x"), cpus("y")]);
    assert_eq!(all, "an attempt met a fault on each of the 2 nodes that the job may use");
}

#[test]
fn the_jobs_own_affinity_and_ours_both_hold_and_too_many_terms_are_refused() {
    let zone = |zone: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
    let job = gpus(1).terms(json!([zone("a"), {}, zone("b")]));
    let pool = ["a", "b", "c"].map(|zone| h100(zone, 1).labelled("zone", zone));
    let placed = job.placed(&pool).unwrap();
    assert_eq!(pool.each_ref().map(|node| lets(&job, &placed, node)), [true, true, false]);
    assert!(!lets(&job, &placed, &h100("d", 1).labelled("zone", "a").with_driver("418.39")));

    let many: Vec<serde_json::Value> = (0..100).map(|n| zone(&format!("a{n}"))).collect();
    let pool = [h100("a", 2).labelled("zone", "a5")];
    let refusal = gpus(2).terms(json!(many)).placed(&pool).unwrap_err();
    assert_eq!(refusal.why, Why::BadSpec);
    assert_eq!(
        refusal.message,
        "the job's node affinity has 100 terms, each of which becomes 24 with what its GPUs need; a pod gets 512 at most"
    );
}

#[test]
fn pods_that_work_apart_need_room_for_one() {
    let job = gpus(4);
    let pool = [h100("a", 4)];
    let request = Request::apart(&job.infrastructure, &[], 10);
    let placed = place(&request, Some(&pool), &Catalogue::built_in()).unwrap();
    assert_eq!((placed.gpus, placed.resource), (40, Some(("nvidia.com/gpu".to_owned(), 4))));
}

#[test]
fn where_an_autoscaler_adds_nodes_pods_for_gpus_wait_for_them() {
    let job = gpus(2).without("spent");
    let request = Request { autoscaled: true, ..job.request() };
    for pool in [vec![], vec![cpus("x")], vec![h100("small", 1)], vec![h100("spent", 2)]] {
        let placed = place(&request, Some(&pool), &catalogue()).unwrap();
        assert_eq!((placed.device, placed.gpus, placed.runtime.as_deref()), (Device::Gpu, 2, Some("cuda-13.0")));
        assert!(placed.reason.starts_with("pods wait for an autoscaler to add nodes: "), "{}", placed.reason);
        // A node that an autoscaler thinks of has the resource and none of the labels that are found on it later.
        assert!(lets(&job, &placed, &bare("new", 2)), "{pool:?}");
        assert!(!lets(&job, &placed, &bare("spent", 2)));
    }
    let fits = place(&request, Some(&[h100("a", 2)]), &catalogue()).unwrap();
    assert_eq!(fits, job.placed(&[h100("a", 2)]).unwrap(), "where a node fits, nothing is different");
    let nonsense = gpus(2).runtime("nonsense");
    let refusal = place(&Request { autoscaled: true, ..nonsense.request() }, Some(&[]), &catalogue()).unwrap_err();
    assert_eq!(refusal.why, Why::BadSpec);
}
