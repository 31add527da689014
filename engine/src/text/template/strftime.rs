//! The date and time that a template may ask for.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// `datetime.now().strftime(format)`, in UTC: the time zone of a server is nothing a model should depend on.
pub fn strftime(format: &str, now: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day, day_of_year) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let weekday = DAYS[(seconds / 86_400 % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = rest.next().unwrap_or('%');
        // `%-d`: without the leading zero.
        let bare = directive == '-';
        if bare {
            directive = rest.next().unwrap_or('%');
        }
        let mut number = |n: u64, width: usize| {
            let _ = if bare { write!(out, "{n}") } else { write!(out, "{n:0width$}") };
        };
        match directive {
            'Y' => number(year, 4),
            'y' => number(year % 100, 2),
            'm' => number(month, 2),
            'd' => number(day, 2),
            'j' => number(day_of_year, 3),
            'H' => number(hour, 2),
            'I' => number((hour + 11) % 12 + 1, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'e' => drop(write!(out, "{day:2}")),
            'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            'B' => out.push_str(month_name),
            'b' | 'h' => out.push_str(&month_name[..3]),
            'A' => out.push_str(weekday),
            'a' => out.push_str(&weekday[..3]),
            'F' => drop(write!(out, "{year:04}-{month:02}-{day:02}")),
            'T' => drop(write!(out, "{hour:02}:{minute:02}:{second:02}")),
            'D' => drop(write!(out, "{month:02}/{day:02}/{:02}", year % 100)),
            'R' => drop(write!(out, "{hour:02}:{minute:02}")),
            'Z' => out.push_str("UTC"),
            'z' => out.push_str("+0000"),
            '%' => out.push('%'),
            other => out.extend(['%', other]),
        }
    }
    out
}

/// Year, month, day and day of the year, of a day since 1970.
fn date(mut day: u64) -> (u64, u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = day + 1;
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    (year, month, day + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Expected texts are what Python's `datetime(2025, 3, 4, 15, 6, 7).strftime` writes.
    #[test]
    fn the_clock_is_pythons() {
        let now = |format: &str| strftime(format, UNIX_EPOCH + Duration::from_secs(1_741_100_767));
        assert_eq!(now("%d %b %Y"), "04 Mar 2025");
        assert_eq!(
            now("%A %B %-d, %Y at %H:%M:%S %p %I %j %y %a %e %F %T %%"),
            "Tuesday March 4, 2025 at 15:06:07 PM 03 063 25 Tue  4 2025-03-04 15:06:07 %"
        );
        let date_of = |seconds| strftime("%F %j %a", UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(date_of(0), "1970-01-01 001 Thu");
        assert_eq!(date_of(951_782_400), "2000-02-29 060 Tue");
        assert_eq!(date_of(4_107_542_399), "2100-02-28 059 Sun");
        assert_eq!(date_of(1_735_603_200), "2024-12-31 366 Tue");
    }
}
