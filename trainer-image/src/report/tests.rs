//! What holds for every report: it is well-formed, loads nothing, runs nothing but its own script, and its size is bounded.

use super::*;
use crds::training::{DecisionThreshold, ThresholdBy};

use crate::metrics::{Epoch, Phases, best_of};

const ELEMENTS_WITHOUT_END: [&str; 3] = ["meta", "img", "input"];

/// The elements of a page in their order, after checking that each that is opened is closed in the right order and that
/// no `<` stands for itself. Style and script are taken as text.
#[track_caller]
fn elements(page: &str) -> Vec<&str> {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("the page starts with its document type");
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').expect("every tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes what was opened last");
            continue;
        }
        let name = tag.split([' ', '/', '\n']).next().unwrap();
        assert!(
            !name.is_empty() && name.chars().all(|character| character.is_ascii_alphanumeric()),
            "<{tag}> is a tag"
        );
        seen.push(name);
        if name == "style" || name == "script" {
            rest = &rest[rest.find(&format!("</{name}>")).unwrap()..];
        }
        if !tag.ends_with('/') && !ELEMENTS_WITHOUT_END.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} are never closed");
    seen
}

#[test]
fn a_course_whose_time_was_not_measured_or_that_found_nothing_says_nothing_of_it() {
    let mut unmeasured = history(2);
    unmeasured.epochs.iter_mut().for_each(|epoch| epoch.phases = None);
    let page = render(&Report { history: Some(&unmeasured), ..Report::default() }).unwrap();
    assert!(!page.contains("Where the time went") && !page.contains("Found in the data"));
    // Measured by several clocks, the parts may be more than the whole: no negative rest.
    let mut more = history(1);
    more.epochs[0].seconds = 30.0;
    let page = render(&Report { history: Some(&more), ..Report::default() }).unwrap();
    assert!(page.contains("<th scope=\"row\">everything else</th><td>0.0\u{a0}s</td>"));
}

fn count(elements: &[&str], name: &str) -> usize {
    elements.iter().filter(|element| **element == name).count()
}

/// Every class has `each` examples; the first of each is taken for the next class.
fn evaluation(classes: usize, each: usize) -> Evaluation {
    let mut evaluation = Evaluation::new(classes);
    for label in 0..classes {
        for example in 0..each {
            let mut probabilities = vec![0.2 / classes as f32; classes];
            probabilities[if example == 0 { (label + 1) % classes } else { label }] = 0.8 - example as f32 / 1000.0;
            evaluation.add(label, &probabilities).unwrap();
        }
    }
    evaluation
}

fn history(epochs: u32) -> History {
    let mut history = History::default();
    for epoch in 1..=epochs {
        history.push(Epoch {
            epoch,
            steps: u64::from(epoch) * 100,
            learning_rate: 0.1 / f64::from(epoch),
            train_loss: 2.0 / f64::from(epoch),
            train_accuracy: Some(1.0 - 0.5 / f64::from(epoch)),
            validation_loss: Some(2.1 / f64::from(epoch)),
            validation_accuracy: Some(1.0 - 0.6 / f64::from(epoch)),
            images_per_second: 1234.0,
            seconds: 61.0,
            phases: Some(Phases { data: 20.0, forward: 15.0, backward: 25.0, ..Phases::default() }),
        });
    }
    history
}

/// The head of a PNG: enough to be taken for one.
fn png(width: u32, length: usize) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend(width.to_be_bytes());
    png.extend(40_u32.to_be_bytes());
    png.resize(length.max(24), 7);
    png
}

fn wrong(name: &str, thumbnail: Vec<u8>) -> WrongImage {
    WrongImage { name: name.into(), label: 0, predicted: 1, probability: 0.97, label_probability: 0.01, thumbnail }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn a_full_report_has_every_section_and_an_empty_one_has_none() {
    let (classes, evaluation, history) = (names(&["cat", "dog", "owl"]), evaluation(3, 20), history(12));
    let before = evaluation.summary().unwrap();
    let full = Report {
        kind: "Training report",
        title: "pets",
        lead: "A resnet18 learned 3 classes.",
        finished: "today",
        classes: &classes,
        evaluated_on: "validation images",
        evaluation: Some(&evaluation),
        threshold: None,
        history: Some(&history),
        learning_rates: vec![(0.5, 0.05), (1.0, 0.1), (12.0, 0.01)],
        findings: vec![("balance".to_owned(), "class \"cat\" has few images".to_owned())],
        previous: Some(Previous {
            relation: Relation::Parent,
            name: "pets-first",
            summary: &before,
            same_images: true,
        }),
        wrong: vec![wrong("cat/1.png", png(32, 100))],
        facts: vec![FactGroup::new("Model").fact("Architecture", "resnet18").maybe("Digest", None::<String>)],
    };
    let page = render(&full).unwrap();
    let seen = elements(&page);
    assert_eq!((count(&seen, "h1"), count(&seen, "section"), count(&seen, "figure")), (1, 10, 6));
    let expected = [
        "<title>pets · Training report</title>",
        "95.0\u{a0}%",
        "of 60 validation images; 95 % interval 86.3\u{a0}% to 98.3\u{a0}%",
        "Best after epoch 12 of 12",
        "Retrained from <b><bdi>pets-first</bdi></b>.</p>",
        "19 of 20 “dog” taken for “dog”",
        "alt=\"Image of “cat”, taken for “dog”\"",
        "<dt>Architecture</dt><dd><bdi>resnet18</bdi></dd>",
        "aria-label=\"Loss: training from 2 to 0.1667, validation from 2.1 to 0.175\"",
        "12 min 12 s",
        "<dt>balance</dt><dd><bdi>class &#34;cat&#34; has few images</bdi></dd>",
        "Learning rate: by step from 0.05 to 0.01",
        "The network waited for images",
        "<th scope=\"row\">backward</th><td>5 min 0 s</td><td class=\"bar\" style=\"--bar:41%\">41.0\u{a0}%</td>",
        "<th scope=\"row\">everything else</th><td>12.0\u{a0}s</td>",
        "On the whole the model is <b>right more often than it is sure</b>",
        "<th scope=\"row\">Brier score</th>",
        "Mean of the images</th>",
    ];
    for expected in expected {
        assert!(page.contains(expected), "{expected} is missing");
    }
    assert!(!page.contains("Digest</dt>"));

    let empty = render(&Report { kind: "Evaluation report", title: "nothing", ..Report::default() }).unwrap();
    let seen = elements(&empty);
    assert_eq!((count(&seen, "h1"), count(&seen, "section"), count(&seen, "nav")), (1, 0, 0));
}

#[test]
fn what_comes_from_outside_is_text_and_never_markup() {
    const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;</title></style>\u{202e}\0\n";
    let (classes, evaluation, history) = (vec![HOSTILE.to_string(); 7], evaluation(7, 9), history(3));
    let before = evaluation.summary().unwrap();
    let report = Report {
        kind: HOSTILE,
        title: HOSTILE,
        lead: HOSTILE,
        finished: HOSTILE,
        classes: &classes,
        evaluated_on: HOSTILE,
        evaluation: Some(&evaluation),
        threshold: None,
        history: Some(&history),
        learning_rates: Vec::new(),
        findings: vec![(HOSTILE.to_owned(), HOSTILE.to_owned())],
        previous: Some(Previous { relation: Relation::Training, name: HOSTILE, summary: &before, same_images: false }),
        wrong: vec![wrong(HOSTILE, b"<script>no picture</script>".to_vec()), wrong(HOSTILE, png(200, 50))],
        facts: vec![FactGroup::new(HOSTILE).fact(HOSTILE, HOSTILE)],
    };
    let page = render(&report).unwrap();
    let seen = elements(&page);
    assert_eq!((count(&seen, "script"), count(&seen, "img"), count(&seen, "style")), (1, 1, 1));
    assert!(page.contains(
        "&#60;script&#62;alert(1)&#60;/script&#62;&#34;&#39;&#62;&#60;img src=x onerror=alert(1)&#62;&#38;amp;"
    ));
    assert!(page.chars().all(|character| !matches!(character, '\u{202e}' | '\0')));
}

#[test]
fn nothing_is_loaded_and_no_other_script_would_run() {
    let evaluation = evaluation(3, 5);
    let page = render(&Report { evaluation: Some(&evaluation), ..Report::default() }).unwrap();
    for loader in ["http:", "https:", "url(", "@import", "src=\"/", "href=\"/", "<link", "<iframe", "fetch(", "import("]
    {
        assert!(!page.contains(loader), "the page contains {loader}");
    }
    let script = page.split_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
    use base64::Engine as _;
    use sha2::Digest as _;
    let digest = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(script));
    assert!(page.contains(&format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )));
    assert!(!["onclick", "onload", "onerror", "javascript:"].iter().any(|handler| page.contains(handler)));
}

#[test]
fn the_size_is_bounded_whatever_the_number_of_classes_epochs_and_images() {
    let classes: Vec<String> = (0..1000).map(|class| format!("{class} {}", "long ".repeat(1000))).collect();
    let (evaluation, history) = (evaluation(1000, 3), history(10_000));
    let report = Report {
        title: &"t".repeat(1 << 20),
        lead: &"l".repeat(1 << 20),
        classes: &classes,
        evaluation: Some(&evaluation),
        history: Some(&history),
        wrong: (0..1000).map(|_| wrong("x.png", png(160, 20_000))).collect(),
        facts: vec![FactGroup::new("Much").fact("Text", "word ".repeat(1 << 20))],
        ..Report::default()
    };
    let page = render(&report).unwrap();
    let seen = elements(&page);
    assert_eq!(count(&seen, "img"), 48);
    assert!(!page.contains("class=\"matrix"), "a matrix of a million cells can't be read");
    assert!(
        page.contains("With 1000 classes the matrix is left out")
            && page.contains("The first 9700 epochs are left out")
    );
    assert!(page.len() < 3 << 20, "{} bytes", page.len());
    // Without the pictures (a third larger as text).
    assert!(page.len() - 48 * 20_000 * 4 / 3 < 1 << 20, "{} bytes", page.len());
}

#[test]
fn two_classes_have_one_curve_with_the_threshold_on_it() {
    let (classes, evaluation) = (names(&["intact", "scratched"]), evaluation(2, 40));
    let page = render(&Report { classes: &classes, evaluation: Some(&evaluation), ..Report::default() }).unwrap();
    elements(&page);
    assert_eq!(page.matches("class=\"line line-").count(), 2, "of the ROC, and of the calibration");
    assert!(page.contains("“<bdi>scratched</bdi>” from a probability of "));
    assert!(page.contains("That finds 97.5\u{a0}% of this class and takes 2.5\u{a0}% of the other for it;"));
    assert!(page.contains("It maximises the difference of the first two (Youden’s J)."));
    assert!(!page.contains("Top 5"));

    let scores: Vec<(f32, bool)> = (0..10).map(|place| (place as f32 / 10.0, place >= 6)).collect();
    let rule = DecisionThreshold { by: ThresholdBy::Recall, at_least: 0.9 };
    let given = Report { threshold: best_of(&scores, &rule), evaluation: Some(&evaluation), ..Report::default() };
    let page = render(&given).unwrap();
    assert!(page.contains("from a probability of 0.500 on") || page.contains("from a probability of 0.600 on"));
    assert!(page.contains("It maximises recall, with the precision that was asked for."));
}

#[test]
fn a_picture_that_is_no_png_or_too_large_is_left_out_but_its_row_is_not() {
    let cases = [
        (png(8, 100), "class=\"pixels\""),
        (png(160, 200_000), "no picture"),
        (b"GIF89a".to_vec(), "no picture"),
        (Vec::new(), "no picture"),
    ];
    for (thumbnail, expected) in cases {
        let page = render(&Report { wrong: vec![wrong("x.png", thumbnail)], ..Report::default() }).unwrap();
        elements(&page);
        assert!(page.contains(expected) && page.contains("97.0\u{a0}% sure"));
    }
}

#[test]
fn a_course_of_one_epoch_or_with_values_that_are_no_numbers_is_still_drawn() {
    let mut odd = history(3);
    odd.epochs[1].train_loss = f64::NAN;
    odd.epochs[2].validation_loss = Some(f64::INFINITY);
    for history in [history(1), odd] {
        let page = render(&Report { history: Some(&history), ..Report::default() }).unwrap();
        assert_eq!(count(&elements(&page), "figure"), 4);
        assert!(!page.contains("NaN") && !page.contains("inf"), "values that are no numbers are shown as a dash");
    }
    let none = render(&Report { history: Some(&History::default()), ..Report::default() }).unwrap();
    assert_eq!(count(&elements(&none), "section"), 0);
}

#[test]
fn figures_are_written_as_people_read_them() {
    let percents = [(1.0, "100"), (0.999_96, "99.99"), (0.9861, "98.6"), (0.0, "0.0")]
        .map(|(share, text)| (text::percent(share), format!("{text}\u{a0}%")));
    let numbers = [
        (0.0, "0"),
        (0.0573, "0.0573"),
        (1.672_005, "1.672"),
        (0.1, "0.1"),
        (1e-5, "1e-5"),
        (2.5e-7, "2.5e-7"),
        (123_456.0, "123456"),
        (1e9, "1e9"),
        (-0.5, "-0.5"),
        (f64::NAN, "–"),
    ]
    .map(|(value, text)| (text::number(value), text.to_string()));
    let counts = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")]
        .map(|(value, text)| (text::count(value), text.to_string()));
    let durations =
        [(0.25, "0.2\u{a0}s"), (59.96, "1 min 0 s"), (3661.0, "1 h 1 min"), (90_000.0, "1 d 1 h"), (-1.0, "–")]
            .map(|(value, text)| (text::duration(value), text.to_string()));
    for (found, expected) in percents.into_iter().chain(numbers).chain(counts).chain(durations) {
        assert_eq!(found, expected);
    }
    assert_eq!(text::clean(&"é".repeat(500)).chars().count(), 121);
    assert_eq!(text::class_name(&names(&["a", " "]), 1), "1");
}
