"""Labels: what people know about places, as one table, and chips cut from it."""
