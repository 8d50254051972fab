//! Damages bytes at random, as a pure function of a few integers.

use super::Seed;
use crate::data::Random;

/// Most bytes of what comes out.
const MOST_BYTES: usize = 1 << 16;
/// Most changes to a seed.
const MOST_CHANGES: u64 = 4;
/// Where programs count wrong.
const EDGES: [u64; 19] = [
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x1_0000_0000,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// One of the seeds with a few changes.
pub(super) fn damaged(seeds: &[Seed], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[below(random, seeds.len())].bytes.clone();
    for _ in 0..=random.below(MOST_CHANGES) {
        change(seeds, random, &mut bytes);
        bytes.truncate(MOST_BYTES);
    }
    bytes
}

/// A number below `bound`; 0 if that is 0.
fn below(random: &mut Random, bound: usize) -> usize {
    random.below(bound.max(1) as u64) as usize
}

fn change(seeds: &[Seed], random: &mut Random, bytes: &mut Vec<u8>) {
    let length = bytes.len();
    let place = below(random, length);
    let end = (place + 1 + below(random, 16)).min(length);
    match random.below(10) {
        // A bit, a byte.
        0 if length > 0 => bytes[place] ^= 1 << random.below(8),
        1 if length > 0 => bytes[place] = random.next() as u8,
        // Cut off, cut out, said twice.
        2 => bytes.truncate(place),
        3 => drop(bytes.drain(place..end)),
        4 => {
            let piece = bytes[place..end].repeat(1 + below(random, 3));
            bytes.splice(place..place, piece);
        }
        // The rest of another one.
        5 => {
            let other = &seeds[below(random, seeds.len())].bytes;
            let from = below(random, other.len());
            bytes.truncate(place);
            bytes.extend_from_slice(&other[from..]);
        }
        // A number over what is there, or before it.
        6 => {
            let number = edge(random);
            let end = (place + number.len()).min(length);
            bytes.splice(place..end, number);
        }
        7 => {
            let number = edge(random);
            bytes.splice(place..place, number);
        }
        // What may be a length, a little off or doubled.
        8 => {
            let mut field = [0; 8];
            let width = (1 << random.below(4)).min(length - place);
            field[..width].copy_from_slice(&bytes[place..place + width]);
            let is_big = random.below(2) == 1;
            if is_big {
                field[..width].reverse();
            }
            let value = u64::from_le_bytes(field);
            let value = match random.below(6) {
                0 => value.wrapping_mul(2),
                1 => value / 2,
                by => value.wrapping_add(by).wrapping_sub(4 - by % 2),
            };
            let mut field = value.to_le_bytes();
            if is_big {
                field[..width].reverse();
            }
            bytes[place..place + width].copy_from_slice(&field[..width]);
        }
        // A number in digits.
        _ => {
            let Some(start) = bytes[place..].iter().position(u8::is_ascii_digit).map(|ahead| place + ahead) else {
                return;
            };
            let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let sign = if random.below(2) == 1 { "-" } else { "" };
            let number = format!("{sign}{}", EDGES[below(random, EDGES.len())]);
            bytes.splice(start..start + digits, number.into_bytes());
        }
    }
}

/// A number where programs count wrong, in 1, 2, 4 or 8 bytes, either way round.
fn edge(random: &mut Random) -> Vec<u8> {
    let value = EDGES[below(random, EDGES.len())];
    let mut bytes = value.to_le_bytes()[..1 << random.below(4)].to_vec();
    if random.below(2) == 1 {
        bytes.reverse();
    }
    bytes
}
