// Command acquire starts an acquisition, watches it to its end and reads one recording back, through nothing but the
// stubs generated from the contracts. It prints what it saw as one JSON object.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	commonv1 "github.com/heimdall-radio/heimdall/gen/heimdall/common/v1"
	coordinatorv1 "github.com/heimdall-radio/heimdall/gen/heimdall/coordinator/v1"
	storagev1 "github.com/heimdall-radio/heimdall/gen/heimdall/storage/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
)

type report struct {
	AcquisitionID string `json:"acquisition_id"`
	State         string `json:"state"`
	SnapshotCount int    `json:"snapshot_count"`
	OutcomeCount  int    `json:"outcome_count"`
	SegmentCount  int    `json:"segment_count"`
	BlockCount    int    `json:"block_count"`
	SampleCount   int64  `json:"sample_count"`
	SampleBytes   int    `json:"sample_bytes"`
	GapCount      int    `json:"gap_count"`
	EndCount      int    `json:"end_count"`
}

func main() {
	coordinator := flag.String("coordinator", "127.0.0.1:50051", "address of the coordinator")
	storage := flag.String("storage", "127.0.0.1:50054", "address of the storage service")
	receivers := flag.String("receivers", "", "ids of the receivers, separated by commas")
	frequencyHz := flag.Float64("frequency-hz", 7.1e6, "centre frequency")
	duration := flag.Duration("duration", time.Second, "length of the window")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), *duration+40*time.Second)
	defer cancel()
	spec := &commonv1.AcquisitionSpec{
		Tuning:      &commonv1.Tuning{CenterFrequencyHz: *frequencyHz},
		Duration:    durationpb.New(*duration),
		ReceiverIds: strings.Split(*receivers, ","),
	}
	seen, err := acquire(ctx, *coordinator, *storage, spec)
	if err != nil {
		fmt.Fprintln(os.Stderr, "acquire:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
		fmt.Fprintln(os.Stderr, "acquire:", err)
		os.Exit(1)
	}
}

func acquire(ctx context.Context, coordinator, storage string, spec *commonv1.AcquisitionSpec) (*report, error) {
	seen := &report{}
	coordinatorConn, err := dial(coordinator)
	if err != nil {
		return nil, err
	}
	defer coordinatorConn.Close()
	storageConn, err := dial(storage)
	if err != nil {
		return nil, err
	}
	defer storageConn.Close()

	jobs := coordinatorv1.NewCoordinatorServiceClient(coordinatorConn)
	started, err := jobs.StartAcquisition(ctx, &coordinatorv1.StartAcquisitionRequest{Spec: spec})
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	seen.AcquisitionID = started.GetAcquisition().GetAcquisitionId()
	if err := watch(ctx, jobs, seen); err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if err := read(ctx, storagev1.NewStorageServiceClient(storageConn), spec.GetReceiverIds()[0], seen); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return seen, nil
}

func dial(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func watch(ctx context.Context, jobs coordinatorv1.CoordinatorServiceClient, seen *report) error {
	request := &coordinatorv1.WatchAcquisitionRequest{AcquisitionId: seen.AcquisitionID}
	snapshots, err := jobs.WatchAcquisition(ctx, request)
	if err != nil {
		return err
	}
	for {
		snapshot, err := snapshots.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		seen.SnapshotCount++
		seen.State = snapshot.GetAcquisition().GetState().String()
		seen.OutcomeCount = len(snapshot.GetAcquisition().GetOutcomes())
	}
}

func read(ctx context.Context, store storagev1.StorageServiceClient, receiverID string, seen *report) error {
	request := &storagev1.ReadRecordingRequest{AcquisitionId: seen.AcquisitionID, ReceiverId: receiverID}
	events, err := store.ReadRecording(ctx, request)
	if err != nil {
		return err
	}
	for {
		response, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch event := response.GetEvent().GetEvent().(type) {
		case *commonv1.IqEvent_Segment:
			seen.SegmentCount++
		case *commonv1.IqEvent_Block:
			seen.BlockCount++
			seen.SampleCount += int64(event.Block.GetSampleCount())
			seen.SampleBytes += len(event.Block.GetSamples())
		case *commonv1.IqEvent_Gap:
			seen.GapCount++
		case *commonv1.IqEvent_End:
			seen.EndCount++
		}
	}
}
