"""From finished runs to what people read: measurements, tables, figures and the report."""
