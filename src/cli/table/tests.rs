use super::*;

const SKAB: &str = "datetime;Accelerometer1RMS;Accelerometer2RMS;Current;Pressure;Temperature;Thermocouple;Voltage;\
                    Volume Flow RateRMS;anomaly;changepoint
2020-03-09 10:14:33;0.02;0.04;1.33;0.05;79.3;26.0;233.1;32.0;0.0;0.0
2020-03-09 10:14:34;0.03;;1.35;0.38;79.5;26.1;236.0;32.0;1.0;0.0
";

fn features(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn pump() -> Vec<String> {
    let mut names: Vec<String> = tidegate_models::rig::SENSORS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    names.truncate(8);
    names
}

fn read(text: &str, names: &[String]) -> Result<Table, TableError> {
    Draft::new(Path::new("f.csv"), text.to_owned())?.read(names)
}

#[test]
fn a_pump_file_is_read_as_it_is() {
    let table = read(SKAB, &pump()).unwrap();
    assert_eq!(table.len(), 2);
    assert_eq!(table.mapping.ignored, ["anomaly", "changepoint"]);
    assert_eq!(table.ts(1), Some(1_583_748_874_000));
    let reading = table.reading(1).unwrap();
    assert_eq!(
        (reading.seq, reading.ts),
        (Some(1), Some(1_583_748_874_000))
    );
    let Values::Ordered(values) = reading.values else {
        panic!()
    };
    assert_eq!(values[0], 0.03);
    assert_eq!(values[1].to_bits(), tidegate_protocol::MISSING_BITS);
    assert_eq!(values[7], 32.0);
    assert!(table.reading(2).is_none());
}

#[test]
fn names_are_compared_without_case_spaces_and_underscores() {
    let text = "ts,volume flow RATE,Accelerometer-1 rms\n1,5,6\n";
    let table = read(
        text,
        &features(&["accelerometer_1_rms", "volume_flow_rate"]),
    )
    .unwrap();
    assert_eq!(
        table.reading(0).unwrap().values,
        Values::Ordered(vec![6.0, 5.0])
    );
    assert!(table.mapping.by_order.is_empty());
}

#[test]
fn columns_without_a_fitting_name_are_taken_by_order_where_the_number_fits() {
    let table = read("a,b,label\n1,2,x\n", &features(&["left", "right"])).unwrap();
    assert_eq!(
        table.reading(0).unwrap().values,
        Values::Ordered(vec![1.0, 2.0])
    );
    assert_eq!(table.mapping.by_order.len(), 2);
    assert!(
        table
            .mapping
            .to_string()
            .contains("\"a\" taken as left by order")
    );
}

#[test]
fn columns_left_over_are_ignored_and_said() {
    let table = read(
        "left,note,right\n1,hello,2\n",
        &features(&["left", "right"]),
    )
    .unwrap();
    assert_eq!(
        table.reading(0).unwrap().values,
        Values::Ordered(vec![1.0, 2.0])
    );
    assert!(table.mapping.to_string().ends_with("ignored: note"));
}

#[test]
fn a_feature_without_a_column_is_named() {
    let error = read("left,b,c\n1,2,3\n", &features(&["left", "right"]))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "f.csv: no column for right; columns that fit no feature: b, c"
    );
}

#[test]
fn without_known_features_every_column_that_is_no_label_is_one() {
    let table = read(SKAB, &[]).unwrap();
    assert_eq!(table.mapping.features.len(), 8);
}

#[test]
fn separators_are_found_outside_of_quotes() {
    for (header, separator) in [
        ("a,b", b','),
        ("a;b;c", b';'),
        ("a\tb", b'\t'),
        ("\"a,b,c\";d", b';'),
        ("a", b','),
    ] {
        assert_eq!(separator_of(header), separator, "{header}");
    }
}

#[test]
fn a_time_column_is_found_by_name_or_by_form() {
    for text in [
        "Time Stamp,a\n1583748873,1\n",
        "when,a\n2020-03-09T10:14:33Z,1\n",
        "a,date-time\n1,1583748873000\n",
    ] {
        let table = read(text, &features(&["a"])).unwrap();
        assert_eq!(table.ts(0), Some(1_583_748_873_000), "{text}");
    }
    assert!(!read("a\n1\n", &features(&["a"])).unwrap().has_time());
}

#[test]
fn a_malformed_row_names_file_line_and_column() {
    for (text, expected) in [
        (
            "a,b\n1,2\n3,x\n",
            "f.csv, line 3, column \"b\": \"x\" is no number",
        ),
        (
            "a,b\n1,1e99\n",
            "f.csv, line 2, column \"b\": \"1e99\" is beyond a 32-bit float",
        ),
        (
            "a,b\n1,2\n3\n",
            "f.csv, line 3: 1 cells where the header has 2",
        ),
        (
            "ts,a,b\nsoon,1,2\n",
            "f.csv, line 2, column \"ts\": \"soon\" is no time",
        ),
    ] {
        let error = read(text, &features(&["a", "b"])).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn rows_that_do_not_fit_may_be_left_out_and_the_others_keep_their_lines() {
    let text = "ts,a,b\n1,1,2\n2,x,2\nsoon,1,2\n3,1\n4,5,y\n5,6,7\n";
    let draft = Draft::new(Path::new("f.csv"), text.to_owned()).unwrap();
    let mut left_out = Vec::new();
    let table = draft.read_with(&features(&["a", "b"]), |error| {
        left_out.push(error.of_row().expect("a row is at fault"));
        Ok(())
    });
    let table = table.unwrap();
    let lines: Vec<u64> = left_out.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 4, 5, 6]);
    assert_eq!(left_out[0].1, "column \"a\": \"x\" is no number");
    assert_eq!(
        (table.len(), table.line(0), table.line(1)),
        (2, Some(2), Some(7))
    );
    let last = table.reading(1).unwrap();
    assert_eq!((last.seq, last.ts), (Some(1), Some(5_000)));
    assert_eq!(last.values, Values::Ordered(vec![6.0, 7.0]));
}

#[test]
fn a_file_without_header_or_rows_is_refused() {
    for (text, expected) in [
        ("", "f.csv: the first line names no columns"),
        ("1,2\n3,4\n", "f.csv: the first line holds values"),
        ("a,b\n", "f.csv: no row after the header"),
    ] {
        let error = read(text, &features(&["a", "b"])).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_byte_order_mark_and_blank_lines_do_no_harm() {
    let table = read(
        "\u{feff}a,b\r\n1,2\r\n\r\n3,NaN\r\n",
        &features(&["a", "b"]),
    )
    .unwrap();
    assert_eq!(table.len(), 2);
}
