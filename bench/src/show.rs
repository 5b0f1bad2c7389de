//! Results for people: on the terminal, and as the table of `docs/benchmarks.md`.

use std::fmt::Write as _;

use crate::compare;
use crate::memory::Memory;
use crate::parts::Price;
use crate::report::{Report, Row};

/// Prints a result, with the difference to the committed one.
pub(crate) fn report(report: &Report, committed: Option<&Report>) {
    println!("{}", machine(report));
    println!("nanoseconds for a packet; net is over `return XDP_TX`, the floor of the same case\n");
    println!(
        "{:<5} {:<18} {:>8} {:>7} {:>15} {:>6} | {:>6} {:>6} {:>6} | {:>7} {:>6} {:>6} {:<7} {:>14}",
        "",
        "",
        "flows",
        "gross",
        "p10-p90",
        "floor",
        "parse",
        "find",
        "dnat",
        "net",
        "x dnat",
        "bar",
        "",
        "committed"
    );
    for row in &report.rows {
        println!("{}", line(row, compare::like(row, committed)));
    }
    memory(&report.memory, committed.map(|it| &it.memory));
}

fn line(row: &Row, committed: Option<&Row>) -> String {
    let reference =
        |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |it| format!("{it:.1}"));
    let spread = format!("{:.1}-{:.1}", row.gross_p10, row.gross_p90);
    let before = committed.map_or_else(String::new, |before| {
        let change = (row.net / before.net - 1.0) * 100.0;
        format!("{:.1} ({change:+.0} %)", before.net)
    });
    format!(
        "{:<5} {:<18} {:>8} {:>7.1} {spread:>15} {:>6.1} | {:>6} {:>6} {:>6} | {:>7.1} {:>6.2} {:>6} {:<7} {before:>14}",
        row.family,
        row.traffic.name(),
        row.flows,
        row.gross,
        row.floor,
        reference(row.references.map(|it| it.parse)),
        reference(row.references.map(|it| it.find)),
        reference(row.references.map(|it| it.rewrite)),
        row.net,
        row.to_rewrite,
        reference(row.bar),
        verdict(row),
    )
}

fn verdict(row: &Row) -> &'static str {
    match row.is_met() {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    }
}

fn memory(memory: &Memory, committed: Option<&Memory>) {
    let before = committed.map(|before| {
        format!(
            " (committed: {:.0} and {:.1})",
            before.for_a_connection,
            mebibytes(before.total())
        )
    });
    println!(
        "\nmemory: {:.0} bytes for a connection; {:.1} MiB in all for {} connections{}",
        memory.for_a_connection,
        mebibytes(memory.total()),
        memory.connections,
        before.unwrap_or_default()
    );
    for table in &memory.tables {
        println!(
            "{:<18} {:>8} entries {:>10} bytes",
            table.name, table.entries, table.bytes
        );
    }
}

/// Prints prices of parts.
pub(crate) fn prices(prices: &[Price]) {
    println!("nanoseconds for a packet over `return XDP_TX`\n");
    println!(
        "{:<64} {:>8} {:>7} {:>15}",
        "", "flows", "net", "gross p10-p90"
    );
    for price in prices {
        let spread = format!("{:.1}-{:.1}", price.gross_p10, price.gross_p90);
        println!(
            "{:<64} {:>8} {:>7.1} {spread:>15}",
            price.what, price.flows, price.net
        );
    }
}

/// The part of `docs/benchmarks.md` that is made.
pub(crate) fn page(report: &Report) -> String {
    let mut page = String::new();
    let mut add = |text: &str| {
        page.push_str(text);
        page.push('\n');
    };
    add(&format!("{}.", machine(report)));
    add(&format!("Made by `{} --save`.\n", report.command));
    add(
        "| | packets | flows | gross, p10-p90 | parse | + HASH lookup | + DNAT, counter | **pglb, net** | to DNAT | bar |",
    );
    add("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for row in &report.rows {
        add(&table_row(row));
    }
    let memory = &report.memory;
    add(&format!(
        "\nOne more connection takes {:.0} bytes of kernel memory when the tables are made; all tables together take {:.1} MiB for {} connections:\n",
        memory.for_a_connection,
        mebibytes(memory.total()),
        thousands(memory.connections as usize),
    ));
    add("| table | entries | bytes |");
    add("| --- | ---: | ---: |");
    for table in &memory.tables {
        let bytes = usize::try_from(table.bytes).unwrap_or(usize::MAX);
        add(&format!(
            "| `{}` | {} | {} |",
            table.name,
            thousands(table.entries as usize),
            thousands(bytes)
        ));
    }
    page
}

fn table_row(row: &Row) -> String {
    let mut text = format!(
        "| {} | {} | {} | {:.0}, {:.0}-{:.0} |",
        row.family,
        row.traffic.name(),
        thousands(row.flows),
        row.gross,
        row.gross_p10,
        row.gross_p90
    );
    match row.references {
        Some(it) => {
            let _ = write!(
                text,
                " {:.0} | {:.0} | {:.0} |",
                it.parse, it.find, it.rewrite
            );
        }
        None => text.push_str(" | | |"),
    }
    let _ = write!(text, " **{:.0}** | {:.2} |", row.net, row.to_rewrite);
    match row.bar {
        Some(bar) => {
            let _ = write!(text, " {bar:.0}: {} |", verdict(row));
        }
        None => text.push_str(" |"),
    }
    text
}

fn machine(report: &Report) -> String {
    format!(
        "Linux {}, {}; {} rounds of {} packets",
        report.kernel,
        report.cpu,
        report.rounds,
        thousands(report.repetitions as usize)
    )
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A number with a comma after each group of three digits.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [7, 1_024, 262_144].map(thousands),
            ["7", "1,024", "262,144"]
        );
    }
}
