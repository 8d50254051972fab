//! Kubernetes quantities as whole numbers: `8`, `1k`, `40Gi`, `0.5Gi`.

/// The number that a quantity says, rounded up; `None` if it is none, negative or beyond all use.
///
/// The grammar is Kubernetes' own (`resource.Quantity`) without exponents, which our schema does not take and which no node
/// reports.
pub fn ceiling(text: &str) -> Option<u128> {
    scaled(text, 1)
}

/// The thousandths that a quantity says, rounded up, as the scheduler counts CPUs.
pub fn thousandths(text: &str) -> Option<u128> {
    scaled(text, 1000)
}

/// So many times the number that a quantity says, rounded up.
fn scaled(text: &str, by: u128) -> Option<u128> {
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let (times, over): (u128, u128) = match suffix {
        "" => (1, 1),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1000_u128.pow(2), 1),
        "G" => (1000_u128.pow(3), 1),
        "T" => (1000_u128.pow(4), 1),
        "P" => (1000_u128.pow(5), 1),
        "E" => (1000_u128.pow(6), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    };
    let places = u32::try_from(fraction.len()).ok()?;
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let over = 10_u128.checked_pow(places)?.checked_mul(over)?;
    Some(mantissa.checked_mul(times)?.checked_mul(by)?.div_ceil(over))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, number) in [
            ("0", Some(0)),
            ("8", Some(8)),
            ("1k", Some(1000)),
            ("40Gi", Some(40 << 30)),
            ("0.5Gi", Some(1 << 29)),
            (".5Gi", Some(1 << 29)),
            ("5.", Some(5)),
            ("1.5", Some(2)),
            ("1500m", Some(2)),
            ("80G", Some(80_000_000_000)),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("-1", None),
            ("8 ", None),
            ("8Gib", None),
            ("999999999999999999999999999999E", None),
            ("9999999999999999999999999999999", None),
        ] {
            assert_eq!(ceiling(text), number, "{text:?}");
        }
        for (text, number) in [("2", 2000), ("1500m", 1500), ("0.1", 100), ("0.0001", 1)] {
            assert_eq!(thousandths(text), Some(number), "{text:?}");
        }
    }
}
