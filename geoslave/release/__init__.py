"""What may leave the house: public counts by cell, precise exports on record, and the check of both."""
