"""Puts a file into an S3 store that answers at ENDPOINT, as anybody's pipeline would: ENDPOINT BUCKET KEY FILE [CA]."""

import json
import sys

import boto3

endpoint, bucket, key, file, *ca = sys.argv[1:]
keys = {"aws_access_key_id": "pipeline", "aws_secret_access_key": "pipeline"}
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", verify=ca[0] if ca else None, **keys)
s3.create_bucket(Bucket=bucket)
with open(file, "rb") as body:
    print(json.dumps(s3.put_object(Bucket=bucket, Key=key, Body=body)["ETag"]))
