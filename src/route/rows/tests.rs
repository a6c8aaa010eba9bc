use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::*;
use crate::route::places::{Column, KeyPart, Placement, Table};
use crate::shard::{BucketMap, Charset, KeyColumn, KeyDigest, KeyValue, SqlType};
use crate::sql::copy_from;

const SHARDS: usize = 3;

/// To make one takes a while.
static MAP: LazyLock<Arc<BucketMap>> =
    LazyLock::new(|| Arc::new(BucketMap::new([("a", 1), ("b", 1), ("c", 1)]).unwrap()));

/// For `(note text, id bigint, name text)`, with this key.
fn splitter(copy: &str, key: &[(&str, SqlType)]) -> Splitter {
    let copy = copy_from(copy.as_bytes()).unwrap();
    let column =
        |name: &str| Column { name: name.into(), key: None, is_made_up: false, draws_keys: false, is_bytewise: false };
    let part =
        |(name, sql_type): &(&str, SqlType)| KeyPart { name: (*name).into(), column: Ok(KeyColumn::of(*sql_type)) };
    let parts: Box<[KeyPart]> = key.iter().map(part).collect();
    let table = Table {
        schema: None,
        name: "t".into(),
        columns: ["note", "id", "name"].map(column).into(),
        placement: Placement::Key(parts.clone()),
        is_table: true,
    };
    let keys = KeyFields::new(&copy, &table, &parts, Some(Arc::clone(&MAP)).into(), Charset::Utf8).unwrap();
    Splitter::new(copy.format, keys, true)
}

const BY_ID: &[(&str, SqlType)] = &[("id", SqlType::Int8)];
const BY_NAME: &[(&str, SqlType)] = &[("name", SqlType::Text)];

/// What each shard is given, and the line of the error where there is one.
type Given = ([Vec<u8>; SHARDS], Result<(), (u64, RowError)>);

/// The data in pieces of these sizes, over and over.
fn split(mut splitter: Splitter, data: &[u8], sizes: &[usize]) -> Given {
    let mut shards: [Vec<u8>; SHARDS] = Default::default();
    let mut give = |target: Target, bytes: &[u8]| match target {
        Target::All => shards.iter_mut().for_each(|shard| shard.extend_from_slice(bytes)),
        Target::One(shard) => shards[shard].extend_from_slice(bytes),
    };
    let (mut rest, mut sizes, mut result) = (data, sizes.iter().cycle(), Ok(()));
    while !rest.is_empty() && result.is_ok() {
        let (piece, behind) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        result = splitter.feed(piece, &mut give);
        rest = behind;
    }
    let result = result.and_then(|()| splitter.finish(&mut give)).map_err(|error| (splitter.line(), error));
    (shards, result)
}

fn shard_of(value: KeyValue<'_>) -> usize {
    MAP.shard_of(&KeyDigest::of(&[value]))
}

fn shard_of_id(id: i64) -> usize {
    shard_of(KeyValue::Integer(id))
}

/// Whole rows, where they belong.
fn expect<'r>(header: &[u8], rows: impl IntoIterator<Item = (usize, &'r [u8])>) -> [Vec<u8>; SHARDS] {
    let mut shards = [(); SHARDS].map(|()| header.to_vec());
    rows.into_iter().for_each(|(shard, row)| shards[shard].extend_from_slice(row));
    shards
}

#[test]
fn texts() {
    for end in ["\n", "\r\n", "\r"] {
        let rows: Vec<String> = [(1, "1"), (2, "2"), (-3, "-3"), (40, "\\064\\x30"), (7, "\\7\\b\\x7")]
            .iter()
            .take(4)
            .map(|(_, id)| format!("a\\\tb\\n\\\n\t{id}\tn{end}"))
            .collect();
        let ids = [1, 2, -3, 40];
        let expected = expect(b"", ids.into_iter().map(shard_of_id).zip(rows.iter().map(|row| row.as_bytes())));
        let data = rows.concat();
        for size in [1, 3, 1000] {
            let given = split(splitter("COPY t FROM STDIN", BY_ID), data.as_bytes(), &[size]);
            assert_eq!(given, (expected.clone(), Ok(())), "{end:?} {size}");
            // What follows the marker is nothing; the last row needs no end.
            let marked = format!("{data}\\.{end}nonsense");
            let given = split(splitter("COPY t FROM STDIN", BY_ID), marked.as_bytes(), &[size]);
            assert_eq!(given, (expected.clone(), Ok(())), "{end:?} {size}");
        }
        let open = format!("x\t5\ty{end}x\t6\ty");
        let first = format!("x\t5\ty{end}");
        let expected = expect(b"", [(shard_of_id(5), first.as_bytes()), (shard_of_id(6), b"x\t6\ty")]);
        assert_eq!(split(splitter("COPY t FROM STDIN", BY_ID), open.as_bytes(), &[2]), (expected, Ok(())));
    }
}

#[test]
fn texts_with_options() {
    let copy = "COPY t (name, id) FROM STDIN (DELIMITER '|', NULL '', HEADER)";
    let data = b"name|id\n|7\nx\\||8\n";
    let expected = expect(b"name|id\n", [(shard_of_id(7), &b"|7\n"[..]), (shard_of_id(8), b"x\\||8\n")]);
    assert_eq!(split(splitter(copy, BY_ID), data, &[4]), (expected, Ok(())));
    let by_both: &[_] = &[("name", SqlType::Text), ("id", SqlType::Int8)];
    let shard = MAP.shard_of(&KeyDigest::of(&[KeyValue::Text("x|".into()), KeyValue::Integer(8)]));
    let data = b"name|id\nx\\||8\n";
    let expected = expect(b"name|id\n", [(shard, &b"x\\||8\n"[..])]);
    assert_eq!(split(splitter(copy, by_both), data, &[4]), (expected, Ok(())));
}

#[test]
fn comma_separated_values() {
    let copy = "COPY t FROM STDIN (FORMAT csv, HEADER)";
    let header: &[u8] = b"note,\"i\nd\",name\n";
    let rows: [(&str, &[u8]); 6] = [
        ("plain", b"x,1,plain\n"),
        ("a\nb,c", b"\"x\n\"\"y\",2,\"a\nb,c\"\n"),
        ("say \"hi\"", b",3,\"say \"\"hi\"\"\"\n"),
        ("partly quoted", b"x,4,partly\" quot\"ed\n"),
        ("", b"x,5,\"\"\n"),
        ("\\.", b"x,6,\\.\n"),
    ];
    let shards = rows.map(|(name, row)| (shard_of(KeyValue::Text(name.into())), row));
    let data = [header, &rows.map(|(_, row)| row).concat()].concat();
    for size in [1, 2, 7, 1000] {
        let given = split(splitter(copy, BY_NAME), &data, &[size]);
        assert_eq!(given, (expect(header, shards), Ok(())), "{size}");
    }
    let marked = [&*data, b"\\.\nx"].concat();
    assert_eq!(split(splitter(copy, BY_NAME), &marked, &[5]), (expect(header, shards), Ok(())));
}

#[test]
fn other_quotes() {
    let copy = "COPY t FROM STDIN (FORMAT csv, QUOTE '''', ESCAPE E'\\\\', DELIMITER ';')";
    let rows: [(&str, &[u8]); 4] = [
        ("it's", b"x;1;'it\\'s'\r\n"),
        ("a\\;b", b"x;2;'a\\\\;b'\r\n"),
        ("\\n", b"x;3;'\\n'\r\n"),
        ("\\", b"x;4;\\\r\n"),
    ];
    let shards = rows.map(|(name, row)| (shard_of(KeyValue::Text(name.into())), row));
    let data = rows.map(|(_, row)| row).concat();
    for size in [1, 1000] {
        assert_eq!(split(splitter(copy, BY_NAME), &data, &[size]), (expect(b"", shards), Ok(())));
    }
}

#[test]
fn nulls_of_a_key() {
    let null = |line| Err((line, RowError::Null("name".into())));
    for (options, data, expected) in [
        ("", "x\t1\t\\N\n", null(1)),
        ("", "x\t1\ta\nx\t1\t\\N\n", null(2)),
        ("", "x\t1\t\\\\N\n", Ok(())),
        ("(NULL 'n')", "x\t1\tn\n", null(1)),
        ("(NULL 'n')", "x\t1\t\\n\n", Ok(())),
        ("(FORMAT csv)", "x,1,\n", null(1)),
        ("(FORMAT csv)", "x,1,\"\"\n", Ok(())),
        ("(FORMAT csv, FORCE_NULL (name))", "x,1,\"\"\n", null(1)),
        ("(FORMAT csv, FORCE_NOT_NULL (name))", "x,1,\n", Ok(())),
        ("(FORMAT csv, FORCE_NOT_NULL *, FORCE_NULL (name))", "x,1,\n", Ok(())),
        ("(FORMAT csv, FORCE_NOT_NULL *, FORCE_NULL (name))", "x,1,\"\"\n", null(1)),
        // PostgreSQL counts the lines within quotes as well.
        ("(FORMAT csv, HEADER)", "h\n\"x\n\",1,a\nx,1,\n", null(4)),
    ] {
        let given = split(splitter(&format!("COPY t FROM STDIN {options}"), BY_NAME), data.as_bytes(), &[3]);
        assert_eq!(given.1, expected, "{options} {data:?}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let format = |line, text| Err((line, RowError::Format(text)));
    let (text, csv) = ("COPY t FROM STDIN", "COPY t FROM STDIN CSV");
    let missing = |line, column: &str| Err((line, RowError::Missing(column.into())));
    for (copy, data, expected) in [
        (text, "x\t1\ty\nx\n", missing(2, "id")),
        (text, "\n", missing(1, "id")),
        (csv, "x,1,y\nx", missing(2, "id")),
        (text, "x\t1\ty\rx\t1\ty\n", format(2, "literal newline found in data")),
        (text, "x\t1\ty\nx\t1\ty\r", format(2, "literal carriage return found in data")),
        (text, "x\t1\ty\r\nx\t1\ty\r", format(2, "literal carriage return found in data")),
        (text, "x\t1\ty\r\n\\.\n", format(2, "end-of-copy marker does not match previous newline style")),
        (text, "x\\.\t1\n", format(1, "end-of-copy marker is not alone on its line")),
        (text, "\\.x\n", format(1, "end-of-copy marker corrupt")),
        (csv, "x,1,y\n\"x,1\n\n", format(4, "unterminated CSV quoted field")),
    ] {
        for size in [1, 1000] {
            assert_eq!(split(splitter(copy, BY_ID), data.as_bytes(), &[size]).1, expected, "{data:?}");
        }
    }
    let given = split(splitter(text, BY_ID), b"x\t1\ty\nx\t1.5\ty\n", &[9]);
    assert!(matches!(given.1, Err((2, RowError::Value { .. }))), "{given:?}");
}

#[test]
fn memory_is_bounded() {
    let copy = "COPY t FROM STDIN";
    let long = vec![b'x'; MAX_UNPLACED + 8192];
    let late = [&long, &b"x\t1\ty\n"[..]].concat();
    assert_eq!(split(splitter(copy, BY_ID), &late, &[8192]).1, Err((1, RowError::TooLong)));
    let early = [b"x\t1\t", &long[..], &long, b"\n"].concat();
    let expected = expect(b"", [(shard_of_id(1), &early[..])]);
    let mut splitter = splitter(copy, BY_ID);
    let mut given = Vec::new();
    for piece in early.chunks(8192) {
        splitter.feed(piece, |_, bytes| given.extend_from_slice(bytes)).unwrap();
        assert!(splitter.held.is_empty());
    }
    assert_eq!(given, expected[shard_of_id(1)]);
}

/// A row of the binary format.
fn tuple(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut row = i16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    for field in fields {
        let length = field.map_or(-1, |field| i32::try_from(field.len()).unwrap());
        row.extend(length.to_be_bytes());
        row.extend(field.unwrap_or_default());
    }
    row
}

fn binary_header(extension: &[u8]) -> Vec<u8> {
    let length = i32::try_from(extension.len()).unwrap().to_be_bytes();
    [b"PGCOPY\n\xff\r\n\0\0\0\0\0", &length[..], extension].concat()
}

#[test]
fn binary_rows() {
    let copy = "COPY t FROM STDIN BINARY";
    let rows =
        [1i64, 2, -3, 1 << 40].map(|id| (shard_of_id(id), tuple(&[None, Some(&id.to_be_bytes()), Some(b"\n\\.\0")])));
    for extension in [&b""[..], b"abc"] {
        let header = binary_header(extension);
        let rows_of = |rows: &[(usize, Vec<u8>)]| rows.iter().map(|(_, row)| row.clone()).collect::<Vec<_>>().concat();
        let data = [&header[..], &rows_of(&rows), b"\xff\xff"].concat();
        let mut expected = expect(&header, rows.iter().map(|(shard, row)| (*shard, &row[..])));
        expected.iter_mut().for_each(|shard| shard.extend(b"\xff\xff"));
        for size in [1, 5, 1000] {
            assert_eq!(split(splitter(copy, BY_ID), &data, &[size]), (expected.clone(), Ok(())), "{size}");
        }
        // Without a trailer; with something behind it; and cut off.
        let open = split(splitter(copy, BY_ID), &data[..data.len() - 2], &[7]);
        assert_eq!(open.1, Ok(()));
        let more = [&data[..], b"x"].concat();
        let expected = Err((5, RowError::Format("received copy data after EOF marker")));
        assert_eq!(split(splitter(copy, BY_ID), &more, &[7]).1, expected);
        let expected = Err((5, RowError::Format("unexpected EOF in COPY data")));
        assert_eq!(split(splitter(copy, BY_ID), &data[..data.len() - 1], &[7]).1, expected);
    }
    let signature = Err((1, RowError::Format("COPY file signature not recognized")));
    assert_eq!(split(splitter(copy, BY_ID), b"x\t1\ty\nx\t1\ty\nx\t1\ty\nx\t1\ty\n", &[7]).1, signature);
    assert_eq!(split(splitter(copy, BY_ID), b"PGCOPY", &[7]).1, signature);
    let header = binary_header(b"");
    for (row, expected) in [
        (tuple(&[Some(b"x"), None, None]), RowError::Null("id".into())),
        (tuple(&[Some(b"x")]), RowError::Missing("id".into())),
        (tuple(&[]), RowError::Missing("id".into())),
        (b"\0\x01\xff\xff\xff\xfe".to_vec(), RowError::Format("invalid field size")),
    ] {
        let data = [&header[..], &rows[0].1, &row].concat();
        assert_eq!(split(splitter(copy, BY_ID), &data, &[1]).1, Err((2, expected)));
    }
}

/// As `COPY … TO` writes it.
fn as_text(value: &str) -> String {
    let escape = |character| match character {
        '\\' => "\\\\".to_owned(),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        other => other.to_string(),
    };
    value.chars().map(escape).collect()
}

fn as_csv(value: &str) -> String {
    format!("\"{}\"", value.replace('"', "\"\""))
}

proptest! {
    #[test]
    fn any_pieces_of_rows_give_the_same(
        rows in proptest::collection::vec(("[a-c\\\\\n\r\t,.\"'N|é]{0,8}", "[a-c\\\\\n\r\t,.\"'N|é]{0,8}"), 0..20),
        end in proptest::sample::select(vec!["\n", "\r\n", "\r"]),
        sizes in proptest::collection::vec(1usize..40, 1..6),
    ) {
        for (copy, write) in
            [("COPY t FROM STDIN", as_text as fn(&str) -> String), ("COPY t FROM STDIN CSV", as_csv)]
        {
            let delimiter = if copy.ends_with("CSV") { ',' } else { '\t' };
            let written: Vec<(usize, String)> = rows
                .iter()
                .map(|(note, name)| {
                    let row = format!("{}{delimiter}1{delimiter}{}{end}", write(note), write(name));
                    (shard_of(KeyValue::Text(name.into())), row)
                })
                .collect();
            let data: String = written.iter().map(|(_, row)| &**row).collect();
            let expected = expect(b"", written.iter().map(|(shard, row)| (*shard, row.as_bytes())));
            prop_assert_eq!(split(splitter(copy, BY_NAME), data.as_bytes(), &sizes), (expected, Ok(())));
        }
    }

    #[test]
    fn any_pieces_of_anything_give_the_same(
        data in proptest::collection::vec(proptest::sample::select(b"12\\.N\n\n\r\t\t,,\"x".to_vec()), 0..60),
        sizes in proptest::collection::vec(1usize..10, 1..6),
    ) {
        for copy in ["COPY t FROM STDIN", "COPY t FROM STDIN CSV HEADER", "COPY t FROM STDIN CSV ESCAPE E'\\\\'"] {
            let (whole, result) = split(splitter(copy, BY_ID), &data, &[1000]);
            let (pieces, other) = split(splitter(copy, BY_ID), &data, &sizes);
            prop_assert_eq!(&result, &other, "{}", copy);
            if result.is_ok() {
                prop_assert_eq!(&whole, &pieces, "{}", copy);
            }
        }
    }

    #[test]
    fn any_pieces_of_binary_rows_give_the_same(
        rows in proptest::collection::vec((any::<i64>(), proptest::option::of(".{0,20}")), 0..10),
        sizes in proptest::collection::vec(1usize..30, 1..6),
    ) {
        let header = binary_header(b"");
        let written: Vec<(usize, Vec<u8>)> = rows
            .iter()
            .map(|(id, note)| {
                let note = note.as_deref().map(str::as_bytes);
                (shard_of_id(*id), tuple(&[note, Some(&id.to_be_bytes()), None]))
            })
            .collect();
        let data = [&header[..], &written.iter().map(|(_, row)| row.clone()).collect::<Vec<_>>().concat()].concat();
        let expected = expect(&header, written.iter().map(|(shard, row)| (*shard, &row[..])));
        prop_assert_eq!(split(splitter("COPY t FROM STDIN BINARY", BY_ID), &data, &sizes), (expected, Ok(())));
    }
}
