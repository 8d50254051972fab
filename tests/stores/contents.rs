//! Images of a store: kept on this machine, damaged, or there twice.

use std::fs;

use crds::contract::{Cause, env};
use libtest_mimic::Failed;
use serde_json::json;

use crate::bench::{Bench, check, s3, training};
use crate::store::Store;

/// With a cache that is too small for all images, and then with a changed image in the bucket.
pub(crate) fn cached<S: Store>() -> Result<(), Failed> {
    const BYTES: u64 = 12_000;
    let bench = Bench::<S>::on()?;
    bench.draw(&bench.path("images"), 12)?;
    let client = bench.client()?;
    client.upload(&bench.path("images"), "images")?;
    let folder = bench.path("cache");
    let (cache, bytes) = (folder.display().to_string(), BYTES.to_string());
    let with = [(env::DATA_CACHE, cache.as_str()), (env::DATA_CACHE_BYTES, bytes.as_str())];
    let train = |name: &str, environment: &[(&str, &str)]| -> Result<Vec<u8>, Failed> {
        let mut spec = training(&bench.uri("images"), &bench.file_uri(name));
        spec["training"]["epochs"] = json!(2);
        bench.start_with("TrainingJob", name, &spec, 1, environment)?.succeed()?;
        Ok(fs::read(bench.path(name).join("model.safetensors"))?)
    };
    let plain = train("plain", &[])?;
    check(!folder.exists(), || "there is a cache that nobody asked for".into())?;
    check(train("cached", &with)? == plain, || "the cache changes the weights".into())?;
    let used: u64 = fs::read_to_string(folder.join("used"))?.parse()?;
    check(used > BYTES / 4 && used <= BYTES, || format!("{used} bytes are in use"))?;
    // All images have changed: what is cached is nobody's image any more.
    for (number, class) in ["left", "right"].into_iter().enumerate() {
        for index in 0..12 {
            let side = image::RgbImage::from_pixel(16, 16, image::Rgb([100 * number as u8, index * 20, 7]));
            side.save(bench.path(&format!("images/{class}/{index:03}.png")))?;
        }
    }
    client.upload(&bench.path("images"), "images")?;
    let changed = train("changed", &with)?;
    check(changed != plain && changed == train("changed-plain", &[])?, || "it trained on what was cached before".into())
}

/// Images that can't be read are left out up to the share that is allowed, and named; so are copies between the parts.
pub(crate) fn reported() -> Result<(), Failed> {
    let bench = Bench::new()?;
    bench.draw(&bench.object("images"), 20)?;
    bench.draw(&bench.object("held-out"), 6)?;
    for broken in ["images/left/003.png", "images/right/004.png", "held-out/left/005.png"] {
        fs::write(bench.object(broken), b"not an image")?;
    }
    let mut spec = training(&s3("images"), &s3("model"));
    spec["data"]["validation"] = json!({"uri": s3("held-out")});
    spec["training"]["epochs"] = json!(1);
    bench.start("TrainingJob", "strict", &spec, 1)?.fail(Cause::BadData, "not a JPEG")?;
    spec["data"]["unreadableFraction"] = json!(0.1);
    bench.start("TrainingJob", "lenient", &spec, 1).and_then(|pod| pod.fail(Cause::BadSpec, "strict"))?;
    spec["output"]["uri"] = json!(s3("another"));
    bench.start("TrainingJob", "lenient", &spec, 2)?.succeed()?;
    let report = fs::read_to_string(bench.object("another/report.html"))?;
    for says in [
        "s3://yard/images/left/003.png: not a JPEG",
        "s3://yard/images/right/004.png: not a JPEG",
        "s3://yard/held-out/left/005.png: not a JPEG",
        "10 of 12 validation images are trained on as well",
    ] {
        check(report.contains(says), || format!("the report does not say {says:?}"))?;
    }
    Ok(())
}
