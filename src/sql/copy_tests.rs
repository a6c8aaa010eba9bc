use super::*;

fn lines(delimiter: u8, null: &[u8], has_header: bool) -> TextForm {
    TextForm { delimiter, null: null.into(), has_header }
}

fn csv(lines: TextForm, quote: u8, escape: u8) -> CopyFormat {
    let none = || Columns::These([].into());
    CopyFormat::Csv(CsvForm { lines, quote, escape, force_null: none(), force_not_null: none() })
}

fn format_of(text: &str) -> Result<CopyFormat, CopyUnread> {
    copy_from(text.as_bytes()).map(|copy| copy.format)
}

#[test]
fn all_forms_are_read() {
    for (text, expected) in [
        ("COPY t FROM STDIN", CopyFormat::Text(lines(b'\t', b"\\N", false))),
        ("copy s.t (a, \"B\") from stdin;", CopyFormat::Text(lines(b'\t', b"\\N", false))),
        ("COPY t FROM STDIN WHERE a > 1", CopyFormat::Text(lines(b'\t', b"\\N", false))),
        ("COPY t FROM STDIN (FORMAT 'text', HEADER, DELIMITER '|', NULL '')", CopyFormat::Text(lines(b'|', b"", true))),
        ("COPY t FROM STDIN WITH (FORMAT binary, FREEZE)", CopyFormat::Binary),
        ("COPY BINARY t FROM STDIN", CopyFormat::Binary),
        ("COPY t FROM STDIN BINARY", CopyFormat::Binary),
        ("COPY binary FROM STDIN", CopyFormat::Text(lines(b'\t', b"\\N", false))),
        ("COPY t FROM STDIN (FORMAT csv)", csv(lines(b',', b"", false), b'"', b'"')),
        ("COPY t FROM STDIN (FORMAT csv, HEADER match)", csv(lines(b',', b"", true), b'"', b'"')),
        ("COPY t FROM STDIN (FORMAT csv, HEADER off)", csv(lines(b',', b"", false), b'"', b'"')),
        (
            "COPY t FROM STDIN (FORMAT csv, DELIMITER E'\\t', QUOTE '''', ESCAPE E'\\\\', NULL 'x')",
            csv(lines(b'\t', b"x", false), b'\'', b'\\'),
        ),
        ("COPY t FROM STDIN WITH CSV HEADER", csv(lines(b',', b"", true), b'"', b'"')),
        ("COPY t FROM STDIN DELIMITER AS ';' CSV QUOTE '~' NULL AS 'n'", csv(lines(b';', b"n", false), b'~', b'~')),
        ("COPY t FROM STDIN USING DELIMITERS '|' WITH NULL 'n'", CopyFormat::Text(lines(b'|', b"n", false))),
        ("COPY t FROM STDIN (DELIMITER E'\\x1f')", CopyFormat::Text(lines(0x1f, b"\\N", false))),
        ("COPY t FROM STDIN (DELIMITER $$|$$)", CopyFormat::Text(lines(b'|', b"\\N", false))),
    ] {
        assert_eq!(format_of(text), Ok(expected), "{text}");
    }
}

#[test]
fn columns_and_encoding() {
    let copy = copy_from(
        b"COPY s.\"T\" (a, \"B\"\"\") FROM STDIN (FORMAT csv, FORCE_NULL (a), FORCE_NOT_NULL *, ENCODING 'UTF8')",
    );
    let copy = copy.unwrap();
    assert_eq!(copy.table, Name { schema: Some("s".into()), name: "T".into() });
    assert_eq!(copy.columns.as_deref(), Some(["a".into(), "B\"".into()].as_slice()));
    assert_eq!(copy.encoding.as_deref(), Some("UTF8"));
    let CopyFormat::Csv(form) = copy.format else { panic!("{:?}", copy.format) };
    assert_eq!((form.force_null.has("a"), form.force_null.has("b"), form.force_not_null.has("b")), (true, false, true));
    let old = copy_from(b"COPY t FROM STDIN CSV FORCE NOT NULL a, b FORCE NULL c ENCODING 'latin1'").unwrap();
    let CopyFormat::Csv(form) = old.format else { panic!("{:?}", old.format) };
    assert_eq!((form.force_not_null.has("b"), form.force_null.has("c"), form.force_null.has("a")), (true, true, false));
    assert_eq!(old.encoding.as_deref(), Some("latin1"));
}

#[test]
fn what_is_not_certain_is_not_read() {
    use CopyUnread::{Form, NotStdin, Option, Value};
    for (text, expected) in [
        ("COPY t FROM '/tmp/x'", NotStdin),
        ("COPY t FROM PROGRAM 'cat'", NotStdin),
        ("COPY t TO STDOUT", Form),
        ("COPY t FROM STDIN; SELECT 1", Form),
        ("SELECT 1", Form),
        ("", Form),
        ("COPY t (U&\"\\0061\") FROM STDIN", Form),
        ("COPY t FROM STDIN (DEFAULT 'd')", Option),
        ("COPY t FROM STDIN (ON_ERROR ignore)", Option),
        ("COPY t FROM STDIN OIDS", Option),
        ("COPY t FROM STDIN (FORMAT csv, FORMAT text)", Value),
        ("COPY t FROM STDIN (FORMAT CSV, HEADER maybe)", Value),
        ("COPY t FROM STDIN (FORMAT json)", Value),
        ("COPY t FROM STDIN (DELIMITER 'ab')", Value),
        ("COPY t FROM STDIN (DELIMITER 'a')", Value),
        ("COPY t FROM STDIN (DELIMITER 'ä')", Value),
        ("COPY t FROM STDIN (DELIMITER E'\\n')", Value),
        ("COPY t FROM STDIN (DELIMITER E'\\u0041')", Value),
        ("COPY t FROM STDIN (DELIMITER U&'x')", Value),
        ("COPY t FROM STDIN (QUOTE 'x')", Value),
        ("COPY t FROM STDIN (FORMAT binary, DELIMITER '|')", Value),
        ("COPY t FROM STDIN (FORMAT csv, QUOTE ',')", Value),
        ("COPY t FROM STDIN (FORMAT csv, DELIMITER '.')", Value),
        ("COPY t FROM STDIN (FORMAT csv, NULL '\"')", Value),
        ("COPY t FROM STDIN (FORMAT csv HEADER)", Value),
    ] {
        assert_eq!(format_of(text), Err(expected), "{text}");
    }
}
