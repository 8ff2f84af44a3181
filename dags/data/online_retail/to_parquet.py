"""Re-encodes the UCI Online Retail transactions as Parquet: every row, every column, in the file's order.

    python3 -m venv venv && venv/bin/pip install pandas==3.1.1 pyarrow==26.0.1
    venv/bin/python to_parquet.py online_retail.csv.gz online_retail.parquet

The CSV is the workbook "Online Retail.xlsx" (https://doi.org/10.24432/C5BW33) saved as UTF-8 CSV. Nothing is
cleaned here: returns, cancellations, duplicates and odd codes are what the contract is about.
"""

import sys

import pandas
import pyarrow
import pyarrow.parquet

SCHEMA = pyarrow.schema(
    [
        ("InvoiceNo", pyarrow.string()),
        ("StockCode", pyarrow.string()),
        ("Description", pyarrow.string()),
        ("Quantity", pyarrow.int64()),
        ("InvoiceDate", pyarrow.timestamp("ms")),
        ("UnitPrice", pyarrow.float64()),
        ("CustomerID", pyarrow.string()),
        ("Country", pyarrow.string()),
    ]
)


def main(source: str, target: str) -> None:
    # Text first: pandas would otherwise guess numbers in codes and take the text "NA" for a missing value.
    frame = pandas.read_csv(source, dtype=str, keep_default_na=False, na_values=[""])
    frame["Quantity"] = frame["Quantity"].astype("int64")
    frame["UnitPrice"] = frame["UnitPrice"].astype("float64")
    frame["InvoiceDate"] = pandas.to_datetime(frame["InvoiceDate"], format="%Y-%m-%d %H:%M:%S")
    # Saved from a spreadsheet, customer numbers read "17850.0"; they are names, not quantities.
    frame["CustomerID"] = frame["CustomerID"].str.removesuffix(".0")
    table = pyarrow.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False)
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(None), target, compression="zstd", compression_level=19, row_group_size=131072
    )
    print(f"{target}: {table.num_rows} rows, {table.num_columns} columns")


if __name__ == "__main__":
    main(*sys.argv[1:])
