//! Bars by day, as a drawing that a page holds. Never reads a log, never holds a text from outside.

use jiff::ToSpan;
use jiff::civil::Date;

use crate::ledger::Day;

/// One bar: a day, and how high its parts are.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Which day.
    pub date: Date,
    /// What was counted.
    pub day: Day,
    /// Left edge; units of the drawing.
    pub x: f64,
    /// Its parts from the ground: class, upper edge, height.
    pub parts: Vec<(&'static str, f64, f64)>,
    /// Written below it.
    pub label: Option<String>,
}

/// A drawing.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The oldest first.
    pub bars: Vec<Bar>,
    /// Width of a bar.
    pub width: f64,
    /// The number at the upper edge.
    pub top: u64,
    /// Nothing was counted on any day.
    pub is_empty: bool,
}

/// The drawing is so wide and so high, without its labels.
pub const WIDTH: f64 = 720.0;
/// See [`WIDTH`].
pub const HEIGHT: f64 = 140.0;

/// The days up to `today`, each with what `parts` makes of it: class and count, from the ground.
pub fn chart(
    days: &std::collections::BTreeMap<Date, Day>,
    today: Date,
    count: i32,
    parts: impl Fn(&Day) -> Vec<(&'static str, u64)>,
) -> Chart {
    let dates = (0..count).rev().filter_map(|ago| today.checked_sub(ago.days()).ok());
    let all: Vec<_> = dates.map(|date| (date, days.get(&date).copied().unwrap_or_default())).collect();
    let sum = |day: &Day| parts(day).iter().map(|(_, count)| count).sum::<u64>();
    let most = all.iter().map(|(_, day)| sum(day)).max().unwrap_or(0);
    let (top, step) = (round_up(most), WIDTH / f64::from(count.max(1)));
    let bars = all.iter().enumerate().map(|(at, (date, day))| {
        let mut ground = HEIGHT;
        let draw = |(class, count): (&'static str, u64)| {
            let height = count as f64 / top as f64 * HEIGHT;
            ground -= height;
            (class, rounded(ground), rounded(height))
        };
        let is_labelled = (all.len() - 1 - at).is_multiple_of(7);
        Bar {
            date: *date,
            day: *day,
            x: rounded(at as f64 * step),
            parts: parts(day).into_iter().filter(|(_, count)| *count > 0).map(draw).collect(),
            label: is_labelled.then(|| date.strftime("%-d %b").to_string()),
        }
    });
    Chart { bars: bars.collect(), width: rounded(step * 0.8), top, is_empty: most == 0 }
}

fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// To a number that people read at once: 1, 2 or 5 and zeros.
fn round_up(most: u64) -> u64 {
    let mut step = 1_u64;
    loop {
        for nice in [1, 2, 5] {
            if step.saturating_mul(nice) >= most {
                return step.saturating_mul(nice);
            }
        }
        step = step.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_on_each_other_and_fit() {
        let today = "2026-11-25".parse().unwrap();
        let day = Day { rejected: 3, dropped: 4, ..Day::default() };
        let days = [(today, day)].into();
        let chart =
            chart(&days, today, 30, |day| vec![("rejected", day.rejected), ("dropped", day.dropped), ("bounced", day.bounced)]);
        assert_eq!((chart.bars.len(), chart.top, chart.is_empty), (30, 10, false));
        let last = chart.bars.last().unwrap();
        assert_eq!(last.parts, [("rejected", 98.0, 42.0), ("dropped", 42.0, 56.0)]);
        assert_eq!((last.label.as_deref(), chart.bars[28].label.as_deref()), (Some("25 Nov"), None));
        assert!(last.x + chart.width <= WIDTH && chart.bars[28].parts.is_empty());
        for (most, top) in [(0, 1), (1, 1), (3, 5), (11, 20), (100, 100), (101, 200), (u64::MAX, u64::MAX)] {
            assert_eq!(round_up(most), top);
        }
    }
}
