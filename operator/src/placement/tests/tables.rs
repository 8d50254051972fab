//! What people see of nodes and filters.

use super::builders::*;
use crate::observe::NodeFacts;
use crate::placement::{Table, nodes, why};

fn pool() -> Vec<NodeFacts> {
    let mut pool = vec![cpus("web"), h100("h1", 8), h100("h2", 8), h100("h3", 8), h100("h4", 8)];
    pool.push(a100("a1", 8).with_driver("535.104.05"));
    let cuda = ["nvidia.com/cuda.runtime-version.major", "nvidia.com/cuda.runtime.minor"];
    let sliced = a100("a2", 1).mig_mixed("1g.5gb", 7, 4_864);
    pool.push(sliced.labelled(cuda[0], 13).labelled(cuda[1], 0));
    pool.push(NodeFacts { cordoned: true, ..h100("s1", 1).shared("time-slicing", 4) });
    pool.push(bare("x", 2).taint("team", "b"));
    pool
}

#[test]
fn nodes_are_listed_by_what_they_offer() {
    assert_eq!(
        nodes(&pool()).to_string(),
        "\
NAME   READY      RESOURCE                GPUS   PRODUCT                            MEMORY   DRIVER       CUDA   COMPUTE   SHARING           MIG     NOTES
a1     yes        nvidia.com/gpu          8      NVIDIA-A100-SXM4-40GB              40Gi     535.104.05   -      8.0       -                 -       -
a2     yes        nvidia.com/mig-1g.5gb   7      NVIDIA-A100-SXM4-40GB-MIG-1g.5gb   4.7Gi    580.95.05    13.0   8.0       -                 mixed   -
h1     yes        nvidia.com/gpu          8      NVIDIA-H100-80GB-HBM3              79.6Gi   580.95.05    -      9.0       -                 -       -
h2     yes        nvidia.com/gpu          8      NVIDIA-H100-80GB-HBM3              79.6Gi   580.95.05    -      9.0       -                 -       -
h3     yes        nvidia.com/gpu          8      NVIDIA-H100-80GB-HBM3              79.6Gi   580.95.05    -      9.0       -                 -       -
h4     yes        nvidia.com/gpu          8      NVIDIA-H100-80GB-HBM3              79.6Gi   580.95.05    -      9.0       -                 -       -
s1     cordoned   nvidia.com/gpu          4      NVIDIA-H100-80GB-HBM3              79.6Gi   580.95.05    -      9.0       time-slicing x4   -       cordoned
x      yes        nvidia.com/gpu          2      -                                  -        -            -      -         -                 -       -
"
    );
}

#[test]
fn alike_nodes_share_a_row_and_those_that_fit_come_first() {
    let job = gpus(2).runtime("cuda-13.0");
    let rows = why(&job.request(), &pool(), &catalogue()).expect("rows");
    assert_eq!(Table::of_why(&rows).to_string(),
        "\
NODES         FIT   GPUS    CHOSEN   TAINTS                  LEFT IN   PRODUCT                 MEMORY   SHARING               PLATFORM      DRIVER           COMPUTE   ENOUGH   NOTES
h1,h2,h3 +1   yes   8       yes      -                       yes       NVIDIA-H100-80GB-HBM3   79.6Gi   -                     linux/amd64   580.95.05        9.0       yes      -
a1            no    8       yes      -                       yes       NVIDIA-A100-SXM4-40GB   40Gi     -                     linux/amd64   no: 535.104.05   8.0       yes      -
s1            no    4       yes      -                       yes       NVIDIA-H100-80GB-HBM3   79.6Gi   no: time-slicing x4   linux/amd64   580.95.05        9.0       yes      cordoned
x             no    2       yes      no: team=b:NoSchedule   yes       -                       -        -                     linux/amd64   no               no        yes      -
a2            no    no: 0   yes      -                       yes       NVIDIA-A100-SXM4-40GB   40Gi     -                     linux/amd64   580.95.05        8.0       no       -
web           no    no: 0   yes      -                       yes       -                       -        -                     linux/amd64   no               no        no       -
"
    );
}
