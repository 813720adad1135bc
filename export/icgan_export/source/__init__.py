"""What is exported: runs (networks), instances (pictures for the bank), licences of both."""
