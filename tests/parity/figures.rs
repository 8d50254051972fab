//! The figures of a model against scikit-learn's, and event files against what TensorBoard reads of them.

use crds::training::{DecisionThreshold, ThresholdBy};
use jiff::Timestamp;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use trainer::metrics::{Epoch, Evaluation, best_of};
use trainer::tensorboard::{Events, FOLDER};

use crate::process::script;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("accuracy to calibration, random and degenerate: scikit-learn's figures", figures),
        Trial::test("event files of two attempts: TensorBoard reads every scalar back", events),
    ]
}

/// Within which figures that are not binned agree; of figures above 1 the share. scikit-learn takes the loss in 32 bits.
const EXACT: f64 = 1e-6;
/// Ranks over which the examples are dealt out.
const RANKS: usize = 3;
/// The bound on precision or recall in rules that have one.
const AT_LEAST: f64 = 0.6;

/// Labels and probabilities.
struct Case {
    name: &'static str,
    rows: Vec<(usize, Vec<f32>)>,
    /// Probabilities are equal to others of the same example: scikit-learn ranks the last of equal classes first, we the
    /// first as `argmax` does.
    tied: bool,
}

/// A linear congruential generator, 0 to 1.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() * end as f64) as usize
    }
}

/// Softmax of logits in which the label's stands out now and then.
fn softmax(draw: &mut Draw, label: usize, classes: usize, spread: f64) -> Vec<f32> {
    let logits: Vec<f64> = (0..classes)
        .map(|class| {
            spread * (draw.next() - 0.5) + if class == label && draw.next() < 0.7 { spread * 0.3 } else { 0.0 }
        })
        .collect();
    let whole: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| (logit.exp() / whole) as f32).collect()
}

/// Eighths that add up to 1: many examples and classes tie.
fn eighths(draw: &mut Draw, label: usize, classes: usize) -> Vec<f32> {
    let mut parts = vec![0.0; classes];
    for _ in 0..8 {
        let class = if draw.next() < 0.3 { label } else { draw.below(classes) };
        parts[class] += 0.125;
    }
    parts
}

fn cases() -> Vec<Case> {
    let mut draw = Draw(9);
    let mut cases = Vec::new();
    let mut add = |name, count: usize, classes: usize, tied, row: &mut dyn FnMut(&mut Draw) -> (usize, Vec<f32>)| {
        let rows: Vec<(usize, Vec<f32>)> = (0..count).map(|_| row(&mut draw)).collect();
        assert!(rows.iter().all(|(_, row)| row.len() == classes));
        cases.push(Case { name, rows, tied });
    };
    let random = |classes: usize, spread: f64| {
        move |draw: &mut Draw| {
            let label = draw.below(classes);
            (label, softmax(draw, label, classes, spread))
        }
    };
    add("two classes", 600, 2, false, &mut random(2, 3.0));
    add("two classes, one of them rare", 600, 2, false, &mut |draw| {
        let label = usize::from(draw.next() < 0.04);
        (label, softmax(draw, label, 2, 4.0))
    });
    add("seven classes", 800, 7, false, &mut random(7, 4.0));
    add("forty classes", 900, 40, false, &mut random(40, 6.0));
    add("three sure classes", 500, 3, false, &mut random(3, 40.0));
    add("ties of two classes", 400, 2, true, &mut |draw| {
        let label = draw.below(2);
        (label, eighths(draw, label, 2))
    });
    add("ties of eight classes", 400, 8, true, &mut |draw| {
        let label = draw.below(8);
        (label, eighths(draw, label, 8))
    });
    add("a class without examples", 300, 6, false, &mut |draw| {
        let label = [0, 1, 3, 4, 5][draw.below(5)];
        (label, softmax(draw, label, 6, 4.0))
    });
    add("one class only", 100, 3, false, &mut |draw| (1, softmax(draw, 1, 3, 4.0)));
    add("one of two classes only", 100, 2, false, &mut |draw| (0, softmax(draw, 0, 2, 4.0)));
    add("all wrong and certain", 90, 3, true, &mut |draw| {
        let label = draw.below(3);
        (label, (0..3).map(|class| if class == (label + 1) % 3 { 1.0 } else { 0.0 }).collect())
    });
    add("all right and certain", 90, 3, true, &mut |draw| {
        let label = draw.below(3);
        (label, (0..3).map(|class| if class == label { 1.0 } else { 0.0 }).collect())
    });
    add("chance alone", 64, 2, true, &mut |draw| (draw.below(2), vec![0.5, 0.5]));
    cases
}

/// As the ranks of a job do: each counts its part, a collective adds up the sums.
fn evaluate(rows: &[(usize, Vec<f32>)]) -> Evaluation {
    let classes = rows[0].1.len();
    let mut sums: Vec<f64> = Vec::new();
    for rank in 0..RANKS {
        let mut evaluation = Evaluation::new(classes);
        for (label, probabilities) in rows.iter().skip(rank).step_by(RANKS) {
            evaluation.add(*label, probabilities).expect("probabilities of a class");
        }
        let own = evaluation.sums();
        sums.resize(own.len(), 0.0);
        sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
    }
    Evaluation::from_sums(classes, &sums).expect("sums of as many classes")
}

fn figures() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let cases = cases();
    let told: Vec<Value> = cases
        .iter()
        .map(|case| {
            let (labels, rows): (Vec<usize>, Vec<&Vec<f32>>) =
                case.rows.iter().map(|(label, row)| (*label, row)).unzip();
            json!({"labels": labels, "probabilities": rows, "atLeast": AT_LEAST})
        })
        .collect();
    std::fs::write(folder.path().join("cases.json"), Value::from(told).to_string())?;
    script("figures.py", folder.path(), &["metrics"])?;
    let theirs: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.path().join("figures.json"))?)?;
    let mut faults = Vec::new();
    for (case, theirs) in cases.iter().zip(&theirs) {
        let mut differences = Differences { case: case.name, faults: &mut faults };
        compare(case, theirs, &mut differences);
        compare_thresholds(case, &theirs["thresholds"], &mut differences);
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

struct Differences<'a> {
    case: &'static str,
    faults: &'a mut Vec<String>,
}

impl Differences<'_> {
    /// Notes a figure that is not theirs within `tolerance`; a figure that one side lacks, the other one has to lack.
    fn note(&mut self, figure: &str, ours: Option<f64>, theirs: &Value, tolerance: f64) {
        let equal = match (ours, theirs.as_f64()) {
            (Some(ours), Some(theirs)) => (ours - theirs).abs() <= tolerance * theirs.abs().max(1.0),
            (None, None) => true,
            _ => false,
        };
        if !equal {
            let fault = format!("{}: {figure} is {ours:?}, scikit-learn's {theirs}, allowed {tolerance:e}", self.case);
            self.faults.push(fault);
        }
    }
}

fn compare(case: &Case, theirs: &Value, differences: &mut Differences<'_>) {
    let evaluation = evaluate(&case.rows);
    let summary = evaluation.summary().expect("there are examples");
    let mut exact = |figure: &str, ours: f64, theirs: &Value| differences.note(figure, Some(ours), theirs, EXACT);
    exact("accuracy", summary.accuracy, &theirs["accuracy"]);
    exact("loss", summary.loss, &theirs["loss"]);
    exact("Brier score", summary.brier_score, &theirs["brier"]);
    exact("calibration error", summary.calibration_error, &theirs["calibrationError"]);
    for (name, average) in [("macro", summary.macro_average), ("weighted", summary.weighted_average)] {
        let values = [average.precision, average.recall, average.f1];
        for (place, value) in values.into_iter().enumerate() {
            exact(&format!("{name} {place}"), value, &theirs[name][place]);
        }
    }
    exact("reliability bins", summary.reliability.len() as f64, &json!(theirs["reliability"].as_array().map(Vec::len)));
    for (bin, point) in summary.reliability.iter().enumerate() {
        for (place, value) in [point.confidence, point.accuracy, point.count as f64].into_iter().enumerate() {
            exact(&format!("reliability {bin}.{place}"), value, &theirs["reliability"][bin][place]);
        }
    }
    for (index, class) in summary.classes.iter().enumerate() {
        let values = [class.precision, class.recall, class.f1, class.support as f64];
        for (place, value) in values.into_iter().enumerate() {
            exact(&format!("class {index}.{place}"), value, &theirs["classes"][index][place]);
        }
    }
    if !case.tied && evaluation.classes() > 5 {
        exact("top 5", summary.top5_accuracy.unwrap_or(f64::NAN), &theirs["top5"]);
    }
    for (index, class) in summary.classes.iter().enumerate() {
        let curve = evaluation.curve(index);
        differences.note(&format!("AUC {index}"), class.auc, &theirs["auc"][index], curve.auc_error() + 1e-9);
        let bound = curve.average_precision_error() + 1e-9;
        let name = format!("average precision {index}");
        differences.note(&name, class.average_precision, &theirs["averagePrecision"][index], bound);
    }
    let mean = |values: &Value| {
        let values: Vec<f64> = values.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        json!((!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64))
    };
    let worst = |error: &dyn Fn(usize) -> f64| (0..evaluation.classes()).map(error).fold(1e-9, f64::max);
    let bound = worst(&|class| evaluation.curve(class).auc_error());
    differences.note("mean AUC", summary.macro_auc, &mean(&theirs["auc"]), bound);
    let bound = worst(&|class| evaluation.curve(class).average_precision_error());
    differences.note(
        "mean average precision",
        summary.macro_average_precision,
        &mean(&theirs["averagePrecision"]),
        bound,
    );
}

/// The best threshold by each rule is as good as scikit-learn's best point, and decides as it says.
fn compare_thresholds(case: &Case, theirs: &Value, differences: &mut Differences<'_>) {
    for class in 0..case.rows[0].1.len() {
        let scores: Vec<(f32, bool)> =
            case.rows.iter().map(|(label, probabilities)| (probabilities[class], *label == class)).collect();
        for by in [ThresholdBy::F1, ThresholdBy::Precision, ThresholdBy::Recall, ThresholdBy::Youden] {
            let name = format!("{by:?} of class {class}");
            let best = best_of(&scores, &DecisionThreshold { by, at_least: AT_LEAST });
            let expected = &theirs[class][format!("{by:?}")];
            let figures = best.map(|best| match by {
                ThresholdBy::F1 => [best.f1; 2],
                ThresholdBy::Precision => [best.precision, best.recall],
                ThresholdBy::Recall => [best.recall, best.precision],
                ThresholdBy::Youden => [best.youden; 2],
            });
            // No point keeps the bound: the nearest one is ours to choose.
            if expected.is_null() && !theirs[class].is_null() {
                continue;
            }
            for place in 0..2 {
                differences.note(&name, figures.map(|figures| figures[place]), &expected[place], 1e-12);
            }
            let Some(best) = best else { continue };
            let taken = scores.iter().filter(|(score, _)| *score >= best.probability as f32);
            let found = taken.clone().filter(|(_, is_class)| *is_class).count() as f64;
            differences.note(&name, Some(best.precision), &json!(found / taken.count().max(1) as f64), 1e-12);
            let all = scores.iter().filter(|(_, is_class)| *is_class).count() as f64;
            differences.note(&name, Some(best.recall), &json!(found / all), 1e-12);
        }
    }
}

/// One attempt makes 30 steps, of which a checkpoint has 20; the next one goes on from there.
fn events() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join(FOLDER))?;
    let at = |seconds: f64| Timestamp::from_microsecond((1_700_000_000.0e6 + seconds * 1e6) as i64).expect("a time");
    let loss = |attempt: u32, step: u64| 3.0 / step as f64 + f64::from(attempt);
    for (attempt, first, last, begin) in [(1, 0, 30, 0.0), (2, 20, 40, 100.0)] {
        let mut events = Events::begin("flowers", attempt, first, 40, at(begin));
        for step in first + 1..=last {
            let now = at(begin + (step - first) as f64 * 0.25);
            events.step(step, loss(attempt, step), 0.1 / step as f64, 64.0, now);
            if step % 10 == 0 {
                let figure = step as f64 / 50.0;
                let epoch = Epoch {
                    epoch: (step / 10) as u32,
                    steps: step,
                    train_loss: loss(attempt, step),
                    validation_loss: Some(1.0 - figure),
                    validation_accuracy: Some(figure),
                    images_per_second: 256.0,
                    seconds: 2.5,
                    ..Epoch::default()
                };
                events.epoch(&epoch, now);
            }
        }
        std::fs::write(folder.path().join(events.name()), events.bytes())?;
    }
    script("figures.py", folder.path(), &["events"])?;
    let read: Value = serde_json::from_slice(&std::fs::read(folder.path().join("events.json"))?)?;

    let curve = |tag: &str| -> Vec<(u64, f32)> {
        let points = read[tag].as_array().into_iter().flatten();
        points.map(|point| (point[0].as_u64().unwrap_or(0), point[1].as_f64().unwrap_or(f64::NAN) as f32)).collect()
    };
    let attempt = |step: u64| if step <= 20 { 1 } else { 2 };
    let steps =
        |figure: &dyn Fn(u64) -> f64| -> Vec<(u64, f32)> { (1..=40).map(|step| (step, figure(step) as f32)).collect() };
    let epochs = |figure: &dyn Fn(u64) -> f64| -> Vec<(u64, f32)> {
        (1..=4).map(|epoch| (epoch * 10, figure(epoch * 10) as f32)).collect()
    };
    let expected = [
        ("step/loss", steps(&|step| loss(attempt(step), step))),
        ("step/learning_rate", steps(&|step| 0.1 / step as f64)),
        ("step/images_per_second", steps(&|_| 256.0)),
        ("loss/train", epochs(&|step| loss(attempt(step), step))),
        ("loss/validation", epochs(&|step| 1.0 - step as f64 / 50.0)),
        ("accuracy/validation", epochs(&|step| step as f64 / 50.0)),
        ("epoch/images_per_second", epochs(&|_| 256.0)),
        ("epoch/seconds", epochs(&|_| 2.5)),
    ];
    for (tag, points) in &expected {
        if curve(tag) != *points {
            return Err(format!("{tag}: TensorBoard reads {:?}, written was {points:?}", curve(tag)).into());
        }
    }
    let tags = read.as_object().map_or(0, serde_json::Map::len);
    if tags != expected.len() {
        return Err(format!("TensorBoard reads {tags} curves, written were {}", expected.len()).into());
    }
    let time = read["step/loss"][0][2].as_f64();
    if time != Some(1_700_000_000.25) {
        return Err(format!("the first step was at {time:?}").into());
    }
    Ok(())
}
