//! The decimal numbers of INCRBYFLOAT, computed as Redis does on x86-64, and on every node alike.
//!
//! Redis adds numbers of the C type `long double`, which has 64 bits of precision there, and prints 17 digits after the
//! point. Rust has no such type, so this file computes with whole numbers: parsing and printing are exact before they
//! are rounded, and rounding is to nearest, ties to even. A `f64` would print other digits (53 bits).
//! Differences to Redis, so that no number takes long: a text has at most [`TEXT_BYTES_MAX`] bytes; numbers from 1e309
//! on are infinite (Redis: 1e4932); hexadecimal numbers are refused.
//! Not here: the operation (`state/`).

use std::cmp::Ordering;

/// Maximum length of a number in a request or a value.
const TEXT_BYTES_MAX: usize = 512;
/// Digits before the point of the largest number.
const INTEGER_DIGITS_MAX: i64 = 309;
/// Maximum length of a printed sum: it may have one more digit than its parts, and a sign.
pub const PRINTED_BYTES_MAX: usize = INTEGER_DIGITS_MAX as usize + 2;
/// A number with so many zeros after the point does not change any sum that is printed.
const ZEROS_MAX: i64 = 340;
/// Beyond so many zeros Redis refuses a number, because it is too small for a `long double`.
const ZEROS_REFUSED: i64 = 4950;
/// Digits after the point that are printed.
const FRACTION_DIGITS: usize = 17;
/// Ten to the power of [`FRACTION_DIGITS`].
const FRACTION_UNITS: u128 = 100_000_000_000_000_000;
/// Exponent of an infinite number.
const INFINITE: i32 = i32::MAX;

/// The number `mantissa * 2^exponent`; the mantissa's highest bit is set unless it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Float {
    is_negative: bool,
    mantissa: u64,
    exponent: i32,
}

impl Float {
    pub const ZERO: Float = Float { is_negative: false, mantissa: 0, exponent: 0 };

    fn infinite(is_negative: bool) -> Float {
        Float { is_negative, mantissa: 1 << 63, exponent: INFINITE }
    }

    /// Parses a number as `strtold` of C does, except for the differences above; `None` if it is none.
    pub fn parse(text: &[u8]) -> Option<Float> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (is_negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if [&b"inf"[..], b"infinity"].iter().any(|name| unsigned.eq_ignore_ascii_case(name)) {
            return Some(Float::infinite(is_negative));
        }
        let (digits, exponent) = decimal(unsigned)?;
        let leading_zeros = digits.iter().take_while(|digit| **digit == 0).count();
        let digits = &digits[leading_zeros..];
        // The number is below 10^integer_digits.
        let integer_digits = digits.len() as i64 + exponent;
        match integer_digits {
            _ if digits.is_empty() => Some(Float::ZERO),
            digits if digits < -ZEROS_REFUSED => None,
            digits if digits < -ZEROS_MAX => Some(Float::ZERO),
            digits if digits > INTEGER_DIGITS_MAX => Some(Float::infinite(is_negative)),
            _ => Some(Float { is_negative, ..rounded_decimal(digits, exponent) }),
        }
    }

    /// The sum, rounded to 64 bits.
    pub fn plus(self, other: Float) -> Float {
        let (large, small) = match (self.mantissa, other.mantissa) {
            (0, _) => return other,
            (_, 0) => return self,
            _ if self.exponent >= other.exponent => (self, other),
            _ => (other, self),
        };
        let distance = large.exponent.saturating_sub(small.exponent) as u32;
        // Beyond 66 the small number is less than an eighth of the large one's last bit.
        if large.exponent == INFINITE || distance > 66 {
            return large;
        }
        // 62 bits behind the large number's last one; what is cut off the small one beyond them is not zero (`is_cut`).
        const SPACE: u32 = 62;
        let wide = u128::from(large.mantissa) << SPACE;
        let (part, is_cut) = match distance.checked_sub(SPACE) {
            None | Some(0) => (u128::from(small.mantissa) << (SPACE - distance), false),
            Some(beyond) => (u128::from(small.mantissa >> beyond), small.mantissa & ((1 << beyond) - 1) != 0),
        };
        let exponent = large.exponent - SPACE as i32;
        if large.is_negative == small.is_negative {
            return Float { is_negative: large.is_negative, ..rounded(wide + part, is_cut, exponent) };
        }
        let is_negative = if wide >= part { large.is_negative } else { small.is_negative };
        Float { is_negative, ..rounded(wide.abs_diff(part) - u128::from(is_cut), is_cut, exponent) }
    }

    /// Prints the number with at most 17 digits after the point; `None` if it is infinite.
    pub fn print(self) -> Option<String> {
        if self.exponent == INFINITE {
            return None;
        }
        let mut text = match u32::try_from(self.exponent) {
            Ok(exponent) => Big::of(self.mantissa).shifted(exponent).to_decimal(),
            Err(_) => {
                let units = u128::from(self.mantissa) * FRACTION_UNITS;
                let units = halved_times(units, self.exponent.unsigned_abs());
                let (integer, fraction) = (units / FRACTION_UNITS, units % FRACTION_UNITS);
                let text = format!("{integer}.{fraction:0width$}", width = FRACTION_DIGITS);
                text.trim_end_matches('0').trim_end_matches('.').to_string()
            }
        };
        if self.is_negative && text != "0" {
            text.insert(0, '-');
        }
        Some(text)
    }
}

/// Digits of a number without a sign, and the power of ten of the last one.
fn decimal(text: &[u8]) -> Option<(Vec<u8>, i64)> {
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&text[..at], power(&text[at + 1..])?),
        None => (text, 0),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.');
    let fraction = point.map_or(0, |point| mantissa.len() - point - 1);
    let digits = mantissa.iter().enumerate().filter(|(at, _)| Some(*at) != point);
    let digits: Option<Vec<u8>> = digits.map(|(_, byte)| byte.is_ascii_digit().then(|| byte - b'0')).collect();
    let digits = digits.filter(|digits| !digits.is_empty())?;
    Some((digits, exponent - fraction as i64))
}

/// The number after the `e`, which need not be exact if it is large.
fn power(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let value = digits.iter().fold(0, |sum: i64, digit| (sum * 10 + i64::from(digit.wrapping_sub(b'0'))).min(100_000));
    is_number.then_some(sign * value)
}

/// The nearest number of 64 bits.
fn rounded_decimal(digits: &[u8], exponent: i64) -> Float {
    let mut numerator = Big::of(0);
    digits.iter().for_each(|digit| numerator.multiply(10, u32::from(*digit)));
    let mut denominator = Big::of(1);
    let scaled = if exponent >= 0 { &mut numerator } else { &mut denominator };
    (0..exponent.unsigned_abs()).for_each(|_| scaled.multiply(10, 0));
    // Shifted so that the quotient has 66 or 67 bits.
    let shift = 66 + i64::from(denominator.bits()) - i64::from(numerator.bits());
    let by = shift.unsigned_abs() as u32;
    let mut rest = if shift > 0 { numerator.shifted(by) } else { numerator };
    let divisor = if shift < 0 { denominator.shifted(by) } else { denominator };
    let (mut quotient, mut part) = (0u128, divisor.shifted(67));
    for bit in (0..=67).rev() {
        if rest.cmp(&part) != Ordering::Less {
            rest.subtract(&part);
            quotient |= 1 << bit;
        }
        part.halve();
    }
    rounded(quotient, rest.bits() > 0, -shift as i32)
}

/// `wide * 2^exponent` rounded to 64 bits; `is_cut`: the exact number is larger, by less than 1 in `wide`.
fn rounded(wide: u128, is_cut: bool, exponent: i32) -> Float {
    let bits = u128::BITS - wide.leading_zeros();
    if bits == 0 {
        return Float::ZERO;
    }
    let Some(surplus) = bits.checked_sub(u64::BITS).filter(|surplus| *surplus > 0) else {
        let missing = u64::BITS - bits;
        return Float { is_negative: false, mantissa: (wide as u64) << missing, exponent: exponent - missing as i32 };
    };
    let (mantissa, rest, half) = ((wide >> surplus) as u64, wide & ((1 << surplus) - 1), 1 << (surplus - 1));
    let exponent = exponent + surplus as i32;
    let is_up = rest > half || rest == half && (is_cut || mantissa & 1 == 1);
    match mantissa.checked_add(u64::from(is_up)) {
        Some(mantissa) => Float { is_negative: false, mantissa, exponent },
        None => Float { is_negative: false, mantissa: 1 << 63, exponent: exponent + 1 },
    }
}

/// `number / 2^times`, rounded to the nearest whole number, ties to even.
fn halved_times(number: u128, times: u32) -> u128 {
    if times >= u128::BITS {
        // The largest number of units has 121 bits.
        return 0;
    }
    let (whole, rest, half) = (number >> times, number & ((1 << times) - 1), 1 << (times - 1));
    whole + u128::from(rest > half || rest == half && whole & 1 == 1)
}

/// A whole number of any size: digits of 32 bits, the lowest first, without zeros at the end.
#[derive(Clone, Debug)]
struct Big(Vec<u32>);

impl Big {
    fn of(number: u64) -> Big {
        let mut big = Big(vec![number as u32, (number >> 32) as u32]);
        big.trim();
        big
    }

    fn trim(&mut self) {
        while self.0.pop_if(|digit| *digit == 0).is_some() {}
    }

    fn bits(&self) -> u32 {
        self.0.last().map_or(0, |last| self.0.len() as u32 * u32::BITS - last.leading_zeros())
    }

    /// Multiplies, then adds.
    fn multiply(&mut self, factor: u32, term: u32) {
        let mut carry = u64::from(term);
        for digit in &mut self.0 {
            carry += u64::from(*digit) * u64::from(factor);
            *digit = carry as u32;
            carry >>= 32;
        }
        self.0.push(carry as u32);
        self.trim();
    }

    /// Times `2^by`.
    fn shifted(&self, by: u32) -> Big {
        let mut big = Big(vec![0; (by / 32) as usize]);
        big.0.extend_from_slice(&self.0);
        big.multiply(1 << (by % 32), 0);
        big
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for digit in self.0.iter_mut().rev() {
            (*digit, carry) = (*digit >> 1 | carry << 31, *digit & 1);
        }
        self.trim();
    }

    fn cmp(&self, other: &Big) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// Subtracts a number that is not larger.
    fn subtract(&mut self, other: &Big) {
        let mut borrow = false;
        for (at, digit) in self.0.iter_mut().enumerate() {
            let (less, one) = digit.overflowing_sub(other.0.get(at).copied().unwrap_or(0));
            let (less, two) = less.overflowing_sub(u32::from(borrow));
            (*digit, borrow) = (less, one || two);
        }
        self.trim();
    }

    fn to_decimal(&self) -> String {
        const CHUNK: u64 = 1_000_000_000;
        let (mut rest, mut chunks) = (self.clone(), Vec::new());
        while !rest.0.is_empty() {
            let mut carry = 0;
            for digit in rest.0.iter_mut().rev() {
                carry = carry << 32 | u64::from(*digit);
                *digit = (carry / CHUNK) as u32;
                carry %= CHUNK;
            }
            chunks.push(carry);
            rest.trim();
        }
        let mut text = chunks.pop().map_or("0".to_string(), |first| first.to_string());
        chunks.iter().rev().for_each(|chunk| text += &format!("{chunk:09}"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(one: &str, other: &str) -> Option<String> {
        Float::parse(one.as_bytes())?.plus(Float::parse(other.as_bytes())?).print()
    }

    /// Answers of redis-server 7.0.15 on x86-64 to `SET k ONE`, `INCRBYFLOAT k OTHER`.
    #[test]
    fn sums_are_printed_as_redis_does() {
        for (one, other, expected) in [
            ("10.50", "0.1", "10.6"),
            ("0.1", "0.2", "0.3"),
            ("5.0e3", "2.0e2", "5200"),
            ("1", "-1", "0"),
            ("-1", "0.5", "-0.5"),
            ("3", "0", "3"),
            ("-0.0", "0", "0"),
            ("1e-18", "0", "0"),
            ("1e-5", "0", "0.00001"),
            (".5", "5.", "5.5"),
            ("+1", "1", "2"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("1e-4000", "1", "1"),
        ] {
            assert_eq!(sum(one, other).as_deref(), Some(expected), "{one} + {other}");
        }
    }

    #[test]
    fn invalid_and_infinite_numbers() {
        let long = "1".repeat(TEXT_BYTES_MAX + 1);
        for bad in ["", "+", "-", ".", "e5", "1e", "1e+", "1.2.3", "1 ", " 1", "abc", "nan", "1e-5000", "0x1", &long] {
            assert_eq!(Float::parse(bad.as_bytes()), None, "{bad:?}");
        }
        for infinite in ["inf", "-Infinity", "1e309", "1e99999999999"] {
            assert_eq!(Float::parse(infinite.as_bytes()).unwrap().plus(Float::ZERO).print(), None, "{infinite}");
        }
        let largest = sum("9e308", "9e308").unwrap();
        assert_eq!(largest.len(), 310);
        assert_eq!(sum(&largest, "1"), None);
    }

    /// Where a `f64` is exact, so is this.
    #[test]
    fn numbers_of_few_bits_are_exact() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let number =
                |rng: &mut fastrand::Rng| rng.i64(-(1 << 40)..1 << 40) as f64 / f64::from(1u32 << rng.u32(0..11));
            let (one, other) = (number(&mut rng), number(&mut rng));
            let exact = |number: f64| format!("{number:.10}");
            let expected = exact(one + other).trim_end_matches('0').trim_end_matches('.').to_string();
            let expected = if expected == "-0" { "0".to_string() } else { expected };
            assert_eq!(sum(&exact(one), &exact(other)), Some(expected), "{one} + {other}");
        }
    }
}
