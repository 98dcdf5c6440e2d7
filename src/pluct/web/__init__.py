"""HTTP: routes, who may use them, and how answers and errors look. No rules live here."""
