//! Figures and names as people read them.

/// Longest name that is shown, in characters; the rest is cut. It bounds the page.
const LONGEST_NAME: usize = 120;

/// A name from outside, made fit for a page: control and direction-changing characters would garble it or what follows
/// and become U+FFFD; what is too long is cut.
pub(super) fn clean(name: &str) -> String {
    let fit = |character: char| match character {
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => '\u{fffd}',
        '\u{fdd0}'..='\u{fdef}' => '\u{fffd}',
        character if character.is_control() || u32::from(character) & 0xfffe == 0xfffe => '\u{fffd}',
        character => character,
    };
    let mut characters = name.chars();
    let mut clean: String = characters.by_ref().take(LONGEST_NAME).map(fit).collect();
    if characters.next().is_some() {
        clean.push('…');
    }
    clean
}

/// Longest text that is shown, in characters.
const LONGEST_TEXT: usize = 2000;

/// A longer text, with its characters made fit and its length bounded.
pub(super) fn long(text: &str) -> String {
    text.split_inclusive(' ').map(clean).collect::<String>().chars().take(LONGEST_TEXT).collect()
}

/// The name of a class, or its index if it has none.
pub(super) fn class_name(names: &[String], class: usize) -> String {
    names.get(class).map(|name| clean(name)).filter(|name| !name.trim().is_empty()).unwrap_or_else(|| class.to_string())
}

/// A share as a percentage, with a space that does not break. Only all is 100 %: 0.99996 is 99.99 %.
pub(super) fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "–".into();
    }
    let percentage = share * 100.0;
    if percentage >= 100.0 {
        "100\u{a0}%".into()
    } else if percentage >= 99.0 {
        format!("{:.2}\u{a0}%", (percentage * 100.0).floor() / 100.0)
    } else {
        format!("{percentage:.1}\u{a0}%")
    }
}

/// A number with four significant digits, in powers of ten if it is very large or small.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !value.is_finite() {
        return "–".into();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-4..6).contains(&magnitude) {
        let text = format!("{value:.2e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", strip_zeros(mantissa));
    }
    strip_zeros(&format!("{value:.*}", (3 - magnitude).max(0) as usize)).to_string()
}

fn strip_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// A count with its thousands set apart.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in the two largest units that it has.
pub(super) fn duration(seconds: f64) -> String {
    if !(0.0..1e12).contains(&seconds) {
        return "–".into();
    }
    if seconds < 59.95 {
        return format!("{seconds:.1}\u{a0}s");
    }
    let seconds = seconds.round() as u64;
    let (days, hours, minutes, rest) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {rest} s"),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
